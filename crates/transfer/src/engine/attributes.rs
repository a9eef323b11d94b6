//! Time and permissions of a finished file. A refusal is a note on the receipt, never a failure.

use super::Inner;
use crate::error::chain;
use crate::source::Pin;
use crate::{Capabilities, Writer};

impl Inner {
    /// Sets what was asked for and can be set; returns what could not.
    pub(super) async fn set_attributes(&self, writer: &dyn Writer, pin: &Pin, capabilities: &Capabilities) -> Option<String> {
        let wishes = &self.setup.wishes;
        let modified = pin.modified.filter(|_| wishes.preserve_time && capabilities.set_times);
        let permissions = wishes.permissions.filter(|_| capabilities.set_mode);
        if modified.is_none() && permissions.is_none() {
            return None;
        }
        let refused = writer.set_attributes(modified, permissions).await.err()?;
        Some(format!("time or permissions were not set: {}", chain(&refused)))
    }
}
