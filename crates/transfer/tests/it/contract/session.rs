//! Sessions: that they answer, end, and do not disturb each other.

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{Check, Outcome, Place, cases, equal, holds, wants};

cases! {
    a_session_answers,
    capabilities_make_sense,
    the_identity_is_the_same_every_time,
    a_closed_session_answers_no_more,
    files_end_with_their_session,
    closing_twice_is_harmless,
    one_session_ends_without_the_other,
    sessions_can_be_opened_again_and_again,
    several_sessions_work_at_once,
    many_questions_are_in_flight,
    an_error_does_not_end_the_session,
}

async fn a_session_answers(p: Place) -> Check {
    p.connection.ping().await?;
    p.connection.ping().await?;
    Ok(Outcome::Passed)
}

async fn capabilities_make_sense(p: Place) -> Check {
    let capabilities = p.connection.capabilities();
    holds(capabilities.multiplex >= 1, "at least one file can be in flight")?;
    holds(capabilities.max_write >= 1, "writes have a size")?;
    holds(!capabilities.offset_writes || capabilities.confirms_writes, "offsets are of no use where nothing is confirmed")?;
    Ok(Outcome::Passed)
}

async fn the_identity_is_the_same_every_time(p: Place) -> Check {
    let other = p.connect().await?;
    let (one, two) = (p.connection.identity(), other.identity());
    equal(&one.host_key, &two.host_key, "the host key")?;
    equal(&one.software, &two.software, "the software")?;
    Ok(Outcome::Passed)
}

async fn a_closed_session_answers_no_more(p: Place) -> Check {
    let other = p.connect().await?;
    other.close().await?;
    match other.stat(&p.directory).await {
        Ok(_) => return Err("a closed session answered".into()),
        Err(error) => holds(error.is_connection_lost(), "the error of a closed session says that the connection is lost")?,
    }
    holds(other.ping().await.is_err(), "a closed session answered a ping")?;
    Ok(Outcome::Passed)
}

async fn files_end_with_their_session(p: Place) -> Check {
    let other = p.connect().await?;
    let writer = other.open(&p.path("a"), p.options(transfer::OpenMode::CreateNew)).await?;
    writer.write_at(0, Bytes::from_static(b"x")).await?;
    other.close().await?;
    match writer.write_at(1, Bytes::from_static(b"y")).await {
        Ok(()) => Err("a file of a closed session took a write".into()),
        Err(error) => {
            holds(error.is_connection_lost(), "the error says that the connection is lost")?;
            Ok(Outcome::Passed)
        }
    }
}

async fn closing_twice_is_harmless(p: Place) -> Check {
    let other = p.connect().await?;
    let _ = other.close().await;
    let _ = other.close().await;
    p.connection.ping().await?;
    Ok(Outcome::Passed)
}

async fn one_session_ends_without_the_other(p: Place) -> Check {
    let other = p.connect().await?;
    drop(other);
    p.put(&p.path("a"), b"still here").await?;
    p.expect(&p.path("a"), b"still here").await?;
    Ok(Outcome::Passed)
}

async fn sessions_can_be_opened_again_and_again(p: Place) -> Check {
    for _ in 0..5 {
        let other = p.connect().await?;
        other.ping().await?;
        other.close().await?;
    }
    Ok(Outcome::Passed)
}

async fn several_sessions_work_at_once(p: Place) -> Check {
    wants!(p, FourLogins);
    let others = try_join_all((0..3).map(|_| p.connect())).await?;
    let p = &p;
    try_join_all(others.into_iter().enumerate().map(|(n, connection)| async move {
        let own = p.over(connection);
        let bytes = super::pattern(100_000, n as u64);
        own.put(&own.path(&format!("f{n}")), &bytes).await?;
        own.expect(&own.path(&format!("f{n}")), &bytes).await
    }))
    .await?;
    Ok(Outcome::Passed)
}

async fn many_questions_are_in_flight(p: Place) -> Check {
    if p.connection.capabilities().multiplex < 16 {
        return Ok(Outcome::Skipped("multiplex 16"));
    }
    wants!(p, Stat);
    p.put(&p.path("a"), b"x").await?;
    let (path, missing) = (p.path("a"), p.path("no"));
    let answers = try_join_all((0..64).map(|n| p.connection.stat(if n % 2 == 0 { &path } else { &missing }))).await?;
    for (n, answer) in answers.into_iter().enumerate() {
        equal(answer.is_some(), n % 2 == 0, "whether each answer belongs to its question")?;
    }
    Ok(Outcome::Passed)
}

async fn an_error_does_not_end_the_session(p: Place) -> Check {
    let result = p.connection.list(&p.path("no"), 1).await;
    holds(result.is_err_and(|error| !error.is_connection_lost()), "a missing directory is no lost connection")?;
    p.connection.ping().await?;
    p.put(&p.path("a"), b"x").await?;
    Ok(Outcome::Passed)
}
