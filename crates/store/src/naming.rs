//! What a mutation is called in an error, and how much work it is.

use crate::{CachedObject, IdempotencyRecord, MAX_SWEEP, Mutation, Preferences, TransferRecord};

impl Mutation {
    /// The words of an error about it: what was done, to what.
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::CreateTransfer(_) => "record",
            Self::SetTransferState { .. } | Self::SetFileState { .. } => "set the state of",
            Self::SetTransferTotals { .. } => "record the totals of",
            Self::StartRun { .. } => "start a run of",
            Self::DeleteTransfer { .. } => "delete",
            Self::AddFiles { .. } => "add files to",
            Self::ReplacePin { .. } => "replace the source version of",
            Self::BeginAttempt { .. } => "begin an attempt of",
            Self::SaveCheckpoint { .. } => "save the checkpoint of",
            Self::SaveIntent { .. } => "save the intent of",
            Self::FinishFile { .. } => "finish",
            Self::SetOriginal { .. } => "record the original of",
            Self::RemoveFiles { .. } => "remove files from",
            Self::MarkCollected { .. } => "mark as collected",
            Self::AcquireLease { .. } => "acquire the lease on",
            Self::RenewLease { .. } => "renew the lease on",
            Self::ReleaseLease { .. } => "release the lease on",
            Self::Park { .. } => "park",
            Self::Unpark { .. } => "unpark",
            Self::BreakerFailure { .. } | Self::BreakerSuccess { .. } | Self::BreakerProbe { .. } => "record the breaker of",
            Self::SaveProfile { .. } => "save the profile of",

            Self::CreateExecution(_) => "record",
            Self::SaveStep(_) => "save a step of",
            Self::DeleteExecution { .. } => "delete",
            Self::CreateRequest(_) => "record the request of",
            Self::ApproveRequest { .. } => "approve",
            Self::SetTickets { .. } => "record the tickets of",
            Self::SetWish { .. } => "record a wish for",
            Self::SetWaiting { .. } => "record what holds",
            Self::SetRequestExecution { .. } => "record the execution of",
            Self::PutIdempotency(_) => "record the key of a request for",
            Self::CreateSession(_) => "record a session for",
            Self::ConsumeSession { .. } => "use the session for",
            Self::DeleteSession { .. } => "delete",
            Self::PutGrant(_) => "record the grant of",
            Self::EndGrant { .. } => "end the grant of",
            Self::TakeSlot { .. } => "take a slot of",
            Self::ReleaseSlot { .. } => "release a slot of",
            Self::AddOutbox(_) => "record",
            Self::ClaimOutbox { .. } => "claim",
            Self::MarkSent { .. } | Self::MarkFailed { .. } => "record the sending of",
            Self::LapseClaims { .. } => "look after",
            Self::RetryOutbox { .. } => "send again",
            Self::DropOutbox { .. } => "give up",
            Self::OpenTicket(_) => "open",
            Self::SetTicketState { .. } => "set the state of",
            Self::AddNote { .. } => "add a note to",
            Self::PutConnector { .. } | Self::PutSource { .. } | Self::PutSecret { .. } => "save",
            Self::RemoveConnector { .. } | Self::RemoveSource { .. } | Self::RemoveSecret { .. } => "remove",
            Self::AddLearning(_) => "record",
            Self::PutCached(_) | Self::DropCached { .. } => "remember",
            Self::PutPreferences(_) | Self::AddExchange { .. } => "remember",
            Self::ForgetUser { .. } => "forget",
            Self::AddAudit { .. } | Self::PutSeal { .. } => "record",
            Self::Sweep { .. } => "sweep",
        }
    }

    pub(crate) fn subject(&self) -> String {
        match self {
            Self::CreateTransfer(TransferRecord { id: transfer, .. })
            | Self::SetTransferState { transfer, .. }
            | Self::SetTransferTotals { transfer, .. }
            | Self::StartRun { transfer, .. }
            | Self::DeleteTransfer { transfer }
            | Self::AddFiles { transfer, .. }
            | Self::RemoveFiles { transfer, .. } => format!("transfer {transfer}"),
            Self::ReplacePin { transfer, number, .. }
            | Self::BeginAttempt { transfer, number, .. }
            | Self::SetFileState { transfer, number, .. }
            | Self::SaveCheckpoint { transfer, number, .. }
            | Self::SaveIntent { transfer, number, .. }
            | Self::FinishFile { transfer, number, .. }
            | Self::SetOriginal { transfer, number, .. } => format!("file {number} of transfer {transfer}"),
            Self::MarkCollected { path, .. } => path.as_str().to_owned(),
            Self::AcquireLease { claim, .. } => claim.resource.clone(),
            Self::RenewLease { guard, .. } | Self::ReleaseLease { guard } => guard.resource.clone(),
            Self::Park { destination, .. }
            | Self::Unpark { destination }
            | Self::BreakerFailure { destination, .. }
            | Self::BreakerSuccess { destination }
            | Self::BreakerProbe { destination, .. }
            | Self::SaveProfile { destination, .. } => destination.clone(),

            Self::CreateExecution(new) => format!("execution {}", new.record.name),
            Self::SaveStep(step) => format!("execution {}", step.name),
            Self::DeleteExecution { name } => format!("execution {name}"),
            Self::CreateRequest(record) => format!("transfer {}", record.transfer),
            Self::ApproveRequest { transfer, .. }
            | Self::SetTickets { transfer, .. }
            | Self::SetWish { transfer, .. }
            | Self::SetWaiting { transfer, .. }
            | Self::SetRequestExecution { transfer, .. }
            | Self::EndGrant { transfer } => format!("transfer {transfer}"),
            Self::PutIdempotency(IdempotencyRecord { transfer, .. }) => format!("transfer {transfer}"),
            Self::CreateSession(session) => format!("transfer {}", session.transfer),
            Self::ConsumeSession { execution, .. } => format!("execution {execution}"),
            // Not even the hash of a token belongs into a message.
            Self::DeleteSession { .. } => "a session".into(),
            Self::PutGrant(grant) => format!("transfer {}", grant.transfer),
            Self::TakeSlot { connector, .. } | Self::ReleaseSlot { connector, .. } => format!("connector {connector}"),
            Self::AddOutbox(message) => message.key.to_string(),
            Self::ClaimOutbox { key, .. }
            | Self::MarkSent { key, .. }
            | Self::MarkFailed { key, .. }
            | Self::RetryOutbox { key, .. }
            | Self::DropOutbox { key, .. } => key.to_string(),
            Self::LapseClaims { .. } => "the claims of the outbox".into(),
            Self::OpenTicket(ticket) => format!("ticket {}", ticket.correlation_id),
            Self::SetTicketState { number, .. } | Self::AddNote { number, .. } => format!("ticket {number}"),
            Self::PutConnector { name, .. } | Self::RemoveConnector { name, .. } => format!("connector {name}"),
            Self::PutSource { name, .. } | Self::RemoveSource { name, .. } => format!("source {name}"),
            Self::PutSecret { name, .. } | Self::RemoveSecret { name, .. } => format!("secret {name}"),
            Self::AddLearning(lesson) => format!("what was learnt of {}", lesson.transfer_type),
            Self::PutCached(CachedObject { key, .. }) | Self::DropCached { key } => key.clone(),
            Self::PutPreferences(Preferences { user, .. }) => format!("the preferences of {user}"),
            Self::AddExchange { user, .. } => format!("an exchange of {user}"),
            Self::ForgetUser { user, .. } => format!("what is remembered of {user}"),
            Self::AddAudit { event, .. } => format!("{event} in the audit"),
            Self::PutSeal { number, .. } => format!("seal {number}"),
            Self::Sweep { .. } => "what has expired".into(),
        }
    }

    /// How much work it is for the one writer, in rows.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::AddFiles { files, .. } => files.len().max(1),
            Self::RemoveFiles { numbers, .. } => numbers.len().max(1),
            Self::CreateExecution(new) => 1 + new.frames.len() + new.history.len(),
            Self::SaveStep(step) => 1 + step.frames.len() + step.removed.len() + step.history.len(),
            Self::PutSeal { heads, .. } => 1 + heads.len(),
            Self::Sweep { limit, .. } => (*limit).clamp(1, MAX_SWEEP) as usize,
            _ => 1,
        }
    }
}
