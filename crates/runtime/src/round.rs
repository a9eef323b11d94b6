//! What one round of a watch sends, and what it leaves alone.

use std::collections::HashSet;

use app::transfers::Held;
use model::ObjectKey;
use store::{FileQuery, Store};
use transfer::Object;

#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub objects: Vec<Object>,
    /// Those of them that are in the manifest and wait for a later round.
    pub resting: HashSet<ObjectKey>,
    /// The objects are some of many: whatever else is in the manifest stays there and waits.
    pub in_part: bool,
}

impl Round {
    /// The keys of the manifest that are left to a later round.
    pub async fn left_for_later(&self, store: &Store, held: &Held) -> app::Result<HashSet<ObjectKey>> {
        let mut resting = self.resting.clone();
        if !self.in_part || !held.resumed {
            return Ok(resting);
        }
        let given: HashSet<&ObjectKey> = self.objects.iter().map(|object| &object.key).collect();
        let mut after = None;
        loop {
            let page = store.files(&held.record.id, FileQuery { after, limit: 1_000, ..FileQuery::default() }).await?;
            let Some(last) = page.last() else { return Ok(resting) };
            after = Some(last.number);
            resting.extend(page.into_iter().filter(|file| !file.state.is_success() && !given.contains(&file.key)).map(|file| file.key));
        }
    }
}
