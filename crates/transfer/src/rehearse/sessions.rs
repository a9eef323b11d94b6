//! The step on sessions: how many a server grants one login at once. All but one are closed again.

use model::Logins;

use super::{GOODBYE, Ground};
use crate::Result;
use crate::error::chain;

/// Nobody is asked for more at once.
pub(super) const MOST_LOGINS: u32 = 8;

impl Ground {
    pub(super) async fn logins(&mut self) -> Result<()> {
        self.connected().await?;
        let mut held = Vec::new();
        let mut refusal = None;
        while (held.len() as u32) < MOST_LOGINS - 1 {
            match tokio::time::timeout(self.patience, self.connector.connect()).await {
                Ok(Ok(connection)) => held.push(connection),
                // One refusal tells; a second one could look like an attack.
                Ok(Err(error)) => refusal = Some(chain(&error)),
                Err(_) => refusal = Some(format!("no answer within {} s", self.patience.as_secs())),
            }
            if refusal.is_some() {
                break;
            }
        }
        let granted = held.len() as u32 + 1;
        let (limited, evidence) = match refusal {
            Some(why) => (true, why),
            None => (false, format!("{granted} were granted, more were not asked for")),
        };
        let (at, by) = (jiff::Timestamp::now(), self.profile.by);
        self.profile.logins = Some(Logins { granted, limited, evidence: model::profile::bounded(&evidence), at, by });
        // What the last ones of a connector say is the sum of what all have learned.
        if let Some(last) = held.last() {
            for fact in &last.identity().facts {
                self.profile.detail(fact.name, &fact.value);
            }
        }
        for connection in held {
            let _ = tokio::time::timeout(self.patience.min(GOODBYE), connection.close()).await;
        }
        Ok(())
    }
}
