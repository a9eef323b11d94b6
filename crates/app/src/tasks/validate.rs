//! ValidateInput: what was approved is what will be done, by somebody who may, under two tickets; the source is pinned.

use model::ErrorClass;
use serde_json::json;
use store::RequestRecord;

use super::Tasks;
use super::gate::{Governed, connector_of};
use super::step::{Done, Step, Stopped};
use crate::binding;
use crate::error::Error;
use crate::spec::CopySpec;

impl Tasks {
    pub(super) async fn validate(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        let record = self.store.transfer(&step.transfer).await?;
        let record = record.ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {} is gone", step.transfer)))?;
        let RequestRecord { user, connector, source, .. } = request;
        if binding::spec_hash(user, connector, source, &record.spec) != request.spec_hash {
            let text = "what is to be done is not what was approved";
            return Err(Error::new(ErrorClass::PolicyDenied, text).into());
        }
        let spec: CopySpec = crate::manifest::parse(&record.spec)?;
        crate::policy::may_transfer(&self.store, request, &spec).await?;
        let agreed = connector_of(&self.store, request).await?;
        let most = agreed.max_age.and_then(|age| age.try_into().ok()).unwrap_or(self.settings.ticket_max_age);
        let max_age = (step.run == 1).then_some((most, self.clock.wall()));
        self.take_up(step, request).await?;
        let governed = Governed::of(&self.store, self.clock.clone(), &step.transfer, self.tickets.clone()).await?;
        governed.check(max_age).await?;
        let totals = self.ferry.list(&step.transfer).await?;
        Ok(Done::with(json!({"files": totals.files, "bytes": totals.bytes})))
    }
}
