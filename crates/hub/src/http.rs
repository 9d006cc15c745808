//! Fetches models from the Hugging Face hub over HTTPS into Hugging Face's own cache.

mod client;
mod download;
mod fetch;
mod hub;
mod listing;

pub use hub::Hub;
