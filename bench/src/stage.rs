//! Everything that stands ready for one row: the store, the partner's server, and the line between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::proxy::{Direction, FaultProxy};
use testkit::s3::{Content, S3Server};

use crate::BUCKET;
use crate::line::Line;
use crate::measure::Account;
use crate::partner::Partner;
use crate::place::{Far, Place};
use crate::row::{Files, Row};

/// The far line of the facts: 1 Gbit/s, a round trip of 50 ms.
pub const LINE: Line = Line { bits_per_second: 1e9, one_way: Duration::from_millis(25) };

/// Objects up to this much in all are held in memory, so that making the bytes costs the contenders nothing.
const HELD: u64 = 2 << 30;

#[derive(Debug)]
pub struct Stage {
    pub store: S3Server,
    pub partner: Partner,
    pub home: tempfile::TempDir,
    pub account: Account,
    /// Stands in for the line where there are no namespaces.
    _proxy: Option<FaultProxy>,
}

impl Stage {
    pub fn set(row: &Row, here: &Place, far: Option<&Far>) -> Result<Self> {
        let (near_end, far_end) = match far.filter(|_| row.far) {
            Some(far) => (&far.near_end, &far.far_end),
            None => (here, here),
        };
        let files = row.files;
        let store = near_end.run(async move {
            let store = S3Server::start().await;
            fill(&store, files);
            store
        })?;
        let (server, logins) = (row.server, row.logins);
        let address = far.filter(|_| row.far).map(|_| Far::address());
        let mut partner = far_end.run(Partner::start(server, address, logins))??;
        let mut proxy = None;
        if row.far && far.is_none() {
            let (target, ports) = (partner.address, partner.passive_ports());
            let stand_in = here.run(async move {
                let proxy = match ports {
                    Some(ports) => FaultProxy::mirror(target, ports).await?,
                    None => FaultProxy::start(target).await,
                };
                let rate = Some((LINE.bits_per_second / 8.0) as u64);
                proxy.round_trip(LINE.one_way * 2).rate(Direction::ToServer, rate).rate(Direction::ToClient, rate);
                Ok::<_, std::io::Error>(proxy)
            })??;
            partner.address = stand_in.address();
            proxy = Some(stand_in);
        }
        Ok(Self { store, account: Account::open(partner.pid()), partner, home: tempfile::tempdir()?, _proxy: proxy })
    }

    /// Empties what an earlier run left on either side.
    pub fn clear(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let target = self.partner.target().0;
        let _ = std::fs::remove_dir_all(&target);
        let _ = std::fs::remove_dir_all(self.home.path().join("state"));
        std::fs::create_dir_all(&target)?;
        let above = std::fs::metadata(target.parent().context("a directory above")?)?;
        std::os::unix::fs::chown(&target, Some(above.uid()), Some(above.gid()))?;
        Ok(())
    }

    /// Every byte of every file, and no file more.
    pub fn compare(&self, files: Files) -> Result<()> {
        use std::io::Read;
        let (bucket, target) = (self.store.bucket(BUCKET), self.partner.target().0);
        let mut block = Vec::new();
        for index in 0..files.count {
            let name = name(index);
            let sent = bucket.get(&format!("{}/{name}", files.prefix())).context("the object is there")?;
            let mut there = std::fs::File::open(target.join(&name)).with_context(|| format!("{name} was not delivered"))?;
            let mut same = there.metadata()?.len() == sent.len();
            sent.for_each_block(|expected| {
                block.resize(expected.len(), 0);
                same = same && there.read_exact(&mut block).is_ok() && block == expected;
            });
            ensure!(same, "{name} of {} differs from its source", files.name());
        }
        let count = std::fs::read_dir(&target)?.count() as u64;
        ensure!(count == files.count, "{count} files are there instead of {}", files.count);
        Ok(())
    }
}

fn name(index: u64) -> String {
    format!("{index:05}.bin")
}

fn fill(store: &S3Server, files: Files) {
    let bucket = store.bucket(BUCKET);
    for index in 0..files.count {
        let content = Content::generated(index + files.size, files.size);
        let key = format!("{}/{}", files.prefix(), name(index));
        if files.bytes() <= HELD {
            bucket.put(&key, content.bytes());
        } else {
            bucket.put(&key, content);
        }
    }
}
