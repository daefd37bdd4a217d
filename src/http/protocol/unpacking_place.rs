//! The one place of a worker for a body that takes several rounds to decode.

use std::sync::Arc;

/// The place of a worker, or the hold on it, which ends when it is dropped.
#[derive(Debug, Default)]
pub(super) struct UnpackingPlace(Arc<()>);

impl UnpackingPlace {
    /// None while another body has it.
    pub fn take(&self) -> Option<Self> {
        (Arc::strong_count(&self.0) == 1).then(|| Self(self.0.clone()))
    }
}
