//! Ctrl-C and SIGTERM: the first asks the engine to checkpoint and stop, the second ends at once.

use std::time::Duration;

use runtime::Control;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Long enough for the engine to drop its connections, short enough to be "at once".
const GRACE: Duration = Duration::from_millis(300);

/// Must be called inside the runtime. `say` prints one line for a person.
pub fn install(control: Control, say: impl Fn(&str) + Send + 'static) -> std::io::Result<()> {
    tokio::spawn(watch(listen()?, control, say, end));
    Ok(())
}

/// For commands that have nothing to checkpoint: the first signal ends them. Left to the system, it would end the
/// process inside a password prompt and leave the terminal without echo.
pub fn install_end() -> std::io::Result<()> {
    let mut signals = listen()?;
    tokio::spawn(async move {
        next(&mut signals).await;
        tokio::time::sleep(GRACE).await;
        end();
    });
    Ok(())
}

fn listen() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

fn end() {
    std::process::exit(i32::from(model::ErrorClass::Cancelled.exit_code()));
}

async fn watch(mut signals: [Signal; 3], control: Control, say: impl Fn(&str), end: impl FnOnce()) {
    next(&mut signals).await;
    say("stopping: checkpointing; press again to stop at once");
    control.stop.cancel();
    next(&mut signals).await;
    control.abort.cancel();
    tokio::time::sleep(GRACE).await;
    end();
}

async fn next([interrupt, terminate, hangup]: &mut [Signal; 3]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn the_first_signal_stops_and_the_second_aborts() {
        let own = || signal(SignalKind::user_defined1()).unwrap();
        let control = Control::default();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let (ended, end) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(watch(
            [own(), signal(SignalKind::user_defined2()).unwrap(), signal(SignalKind::window_change()).unwrap()],
            control.clone(),
            move |line| heard.lock().unwrap().push_str(line),
            move || ended.send(()).unwrap(),
        ));
        let raise = |s| rustix::process::kill_process(rustix::process::getpid(), s).unwrap();
        raise(rustix::process::Signal::USR1);
        control.stop.cancelled().await;
        assert!(said.lock().unwrap().contains("press again"));
        assert!(!control.abort.is_cancelled());
        raise(rustix::process::Signal::USR2);
        control.abort.cancelled().await;
        end.await.unwrap();
        task.await.unwrap();
    }
}
