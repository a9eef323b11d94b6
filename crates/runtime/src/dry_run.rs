//! `--dry-run`: lists and plans, connects to no destination and records nothing; it tells what is known of the server.

use app::event::{PlannedFile, Summary};
use app::{Event, forecast, profiles};
use jiff::Timestamp;
use model::{Protocol, TransferState};
use tokio::sync::mpsc;

use crate::copy::blank_summary;
use crate::ends::Ends;
use crate::open;
use crate::passage::plan_report;
use crate::select::Counts;
use crate::{Failure, Place};

/// Files shown; more are counted.
const SHOWN: u64 = 1_000;

pub(crate) async fn dry_run(place: &Place, ends: &Ends, events: mpsc::Sender<Event>) -> Result<Summary, Failure> {
    let Ends { spec, source, destination, naming, chooser } = ends;
    let mut counts = Counts::default();
    let mut objects = chooser.objects(source);
    let (mut files, mut bytes, mut largest, mut listing, mut failed, mut shown) = (0, 0, 0, Vec::new(), 0, 0u64);
    while let Some(page) = objects.next(&mut counts).await? {
        for object in page {
            match naming.path(&object.key, object.version.as_deref()) {
                Ok(path) => {
                    files += 1;
                    bytes += object.size;
                    largest = object.size.max(largest);
                    if shown < SHOWN {
                        listing.push(PlannedFile { key: object.key.to_string(), path: path.to_string(), size: object.size });
                        for sidecar in &spec.options.sidecars {
                            let name = sidecar.name.render(path.name(), naming.now).unwrap_or_default();
                            match path.sibling(&name) {
                                Ok(beside) => listing.push(PlannedFile { key: sidecar.to_string(), path: beside.to_string(), size: 0 }),
                                Err(error) => {
                                    failed += 1;
                                    let _ = events.send(Event::Note(format!("would fail: {error}"))).await;
                                }
                            }
                        }
                        shown += 1;
                    }
                }
                Err(error) => {
                    failed += 1;
                    let _ = events.send(Event::Note(format!("would fail: {error}"))).await;
                }
            }
        }
    }
    let mut plan = plan_report(spec, files, bytes, &counts);
    plan.dry_run = true;
    plan.more = files - shown;
    for (what, name) in [("manifest", &spec.options.manifest), ("done", &spec.options.done)] {
        let (Some(name), true) = (name, files > 0) else { continue };
        let name = name.render("", naming.now).unwrap_or_default();
        let path = naming.root.join(&name).map_err(transfer::Error::from)?;
        listing.push(PlannedFile { key: format!("{what}:{name}"), path: path.to_string(), size: 0 });
    }
    plan.listing = listing;
    let server = destination.endpoint.protocol != Protocol::File;
    if server && let Some(store) = place.store_if_any().await? {
        let profile = profiles::load(&store, &destination.key).await?;
        plan.known = profile.map(|profile| Box::new(forecast::forecast(&profile, &spec.options, largest, Timestamp::now())));
    }
    let unknown = server && plan.known.is_none();
    let _ = events.send(Event::Plan(plan)).await;
    if unknown {
        let text = format!("nothing is known of this server yet; `fileferry rehearse {}` finds out", open::parse(&spec.destination)?);
        let _ = events.send(Event::Note(text)).await;
    }
    let mut summary = blank_summary(None, TransferState::Pending);
    summary.files = files;
    summary.failed = failed;
    summary.exit_code = if failed > 0 { 6 } else { 0 };
    Ok(summary)
}
