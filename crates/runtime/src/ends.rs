//! Both ends of a transfer, opened from what was asked for: where it is read, where it goes, and how names are made.

use app::CopySpec;
use app::transfers::Naming;
use jiff::Timestamp;
use model::{Credential, Publish, TempName};

use crate::open::{self, DestinationSide, Login, SourceSide};
use crate::select::Chooser;
use crate::{Failure, Place};

#[derive(Debug)]
pub(crate) struct Ends {
    pub spec: CopySpec,
    pub source: SourceSide,
    pub destination: DestinationSide,
    pub naming: Naming,
    pub chooser: Chooser,
}

impl Ends {
    /// Connects to no destination. `password` is what a flag gave.
    pub async fn open(place: &Place, spec: CopySpec, password: Option<Credential>, login: Login) -> Result<Self, Failure> {
        let destination = open::destination(&spec.destination, &spec.server, &spec.options, password, login, place)?;
        let source = open::source(&spec.source, &spec.s3, &spec.options, place).await?;
        Self::of(spec, source, destination, Timestamp::now())
    }

    /// From ends that are open; names are made as at this time.
    pub fn of(spec: CopySpec, source: SourceSide, destination: DestinationSide, now: Timestamp) -> Result<Self, Failure> {
        let naming = open::naming(&spec, &source, &destination, now)?;
        let chooser = Chooser::new(&spec.options, &source, &naming)?;
        Ok(Self { spec, source, destination, naming, chooser })
    }
}

/// `--publish staging-dir` without a `--temp-name` that names a directory means `tmp/` beside the final name.
pub(crate) fn with_staging_directory(mut spec: CopySpec) -> Result<CopySpec, Failure> {
    let options = &mut spec.options;
    if options.publish == Publish::StagingDir && !options.temp_name.as_str().contains('/') {
        options.temp_name = TempName::parse("tmp/{id}.part").map_err(transfer::Error::from)?;
    }
    Ok(spec)
}
