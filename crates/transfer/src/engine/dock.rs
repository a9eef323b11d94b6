//! What engines with one destination have in common: its connections, the memory and the speed limit. A process that
//! delivers many transfers to one server keeps a dock, so that each finds the sessions of those before it.

use std::sync::Arc;

use super::Tuning;
use crate::Connector;
use crate::budget::Budget;
use crate::limit::Limiter;
use crate::meter::Meter;
use crate::pool::Pool;
use crate::port::Logins;

#[derive(Debug, Clone)]
pub struct Dock {
    pub(super) pool: Arc<Pool>,
    pub(super) budget: Budget,
    pub(super) limiter: Arc<Limiter>,
    pub(super) range_size: u64,
}

impl Dock {
    /// `meter` counts what all of its engines do; `granted` is how many sessions the server is known to allow.
    pub fn new(connector: Arc<dyn Connector>, logins: Arc<dyn Logins>, meter: Arc<Meter>, tuning: &Tuning, granted: Option<usize>) -> Self {
        let budget = Budget::new(tuning.budget);
        // On each lane one range is being written and one proved, while two more are on their way.
        let streams = tuning.connections.unwrap_or(2).max(2) as u64 * 2 + 2;
        let range_size = crate::budget::range_size(tuning.range_size, &budget, streams);
        let pool = Pool::new(connector, logins, meter, tuning);
        pool.expect_logins(granted);
        Self { pool, budget, limiter: Arc::new(Limiter::new(tuning.bandwidth.clone())), range_size }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}
