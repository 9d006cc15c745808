//! Calibration: what the inputs of every matrix are like when a model runs on text.
//!
//! ```text
//! texts      by default the model's own: any text it could be used for is one that it could write
//! layers     the text passes through a few layers at a time; their inputs become factors
//! quantized  with few bits, it also passes through the layers as they were quantized
//! ```
//!
//! The model is the 8-bit version of the one that is to be quantized. The factors are the same on every
//! machine and for any number of threads, as are the logits of the model.

mod layers;
mod quantized;
mod texts;

pub use layers::Calibration;
pub(crate) use quantized::correction_bytes;
pub use texts::{OwnText, TEXT_TOKENS, Text, divide, generate};
