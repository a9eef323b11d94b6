//! The two streams of the process. With `--json` stdout holds one object per line and nothing else.
//! A closed stdout is remembered and is neither a panic nor the end of a copy.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::trouble::Trouble;

type Stream = Mutex<Box<dyn Write + Send>>;

/// Cheap to clone; all clones write to the same streams.
#[derive(Clone)]
pub struct Screen(Arc<Inner>);

struct Inner {
    out: Stream,
    err: Stream,
    bar: Mutex<ProgressBar>,
    json: bool,
    quiet: bool,
    colours: bool,
    closed: AtomicBool,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Screen(json: {}, quiet: {})", self.0.json, self.0.quiet)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    pub fn new(json: bool, quiet: bool, colours: bool) -> Self {
        // `Stdout` would panic in `println!` and writes line by line; a lock per line is what keeps lines whole.
        Self::on(Box::new(std::io::stdout()), Box::new(std::io::stderr()), json, quiet, colours)
    }

    pub fn on(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, json: bool, quiet: bool, colours: bool) -> Self {
        let bar = Mutex::new(ProgressBar::hidden());
        Self(Arc::new(Inner { out: Mutex::new(out), err: Mutex::new(err), bar, json, quiet, colours, closed: AtomicBool::new(false) }))
    }

    pub fn json(&self) -> bool {
        self.0.json
    }

    /// Nobody reads stdout any more.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }

    /// Lines are written around this bar from now on.
    pub fn show(&self, bar: ProgressBar) {
        *lock(&self.0.bar) = bar;
    }

    /// Runs `work` while the bar is off the screen.
    pub fn suspended<T>(&self, work: impl FnOnce() -> T) -> T {
        let bar = lock(&self.0.bar).clone();
        bar.suspend(work)
    }

    /// A line on stdout, exactly as given; the caller has made sure that it is one line.
    pub fn line(&self, text: &str) {
        let failed = self.suspended(|| {
            let mut out = lock(&self.0.out);
            out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()).err()
        });
        if let Some(error) = failed
            && !self.0.closed.swap(true, Relaxed)
            && error.kind() != ErrorKind::BrokenPipe
        {
            self.error_line(&format!("error: could not write to stdout: {error}"));
        }
    }

    /// A line for a person on stdout; nothing with `--json` or `-q`.
    pub fn say(&self, text: &str) {
        if !self.0.json && !self.0.quiet {
            self.line(&model::escape_name(text));
        }
    }

    /// One object on stdout; nothing without `--json`.
    pub fn object(&self, object: &impl Serialize) {
        if self.0.json {
            match serde_json::to_string(object) {
                Ok(text) => self.line(&text),
                Err(error) => self.error_line(&format!("error: could not write a JSON line: {error}")),
            }
        }
    }

    /// A line for a person on stderr; nothing with `-q`.
    pub fn note(&self, text: &str) {
        if !self.0.quiet {
            self.error_line(&model::escape_name(text));
        }
    }

    /// An error in its parts, whatever was silenced; with `--json` an `error` object as well.
    pub fn trouble(&self, trouble: &Trouble) {
        for line in trouble.lines() {
            match line.strip_prefix("error:") {
                Some(rest) if self.0.colours => self.error_line(&format!("\x1b[1;31merror:\x1b[0m{rest}")),
                _ => self.error_line(&line),
            }
        }
    }

    /// The command as a whole could not be carried out.
    pub fn failure(&self, trouble: &Trouble) {
        self.trouble(trouble);
        self.failure_object(trouble);
    }

    pub fn failure_object(&self, trouble: &Trouble) {
        self.object(&ErrorLine {
            v: 1,
            kind: "error",
            class: trouble.class.map(|class| class.name()),
            message: &trouble.what,
            whose_move: &trouble.whose_move,
            next: &trouble.next,
            exit_code: trouble.exit_code,
        });
    }

    fn error_line(&self, text: &str) {
        self.suspended(|| {
            let mut err = lock(&self.0.err);
            // There is nobody left to tell when stderr is gone.
            let _ = err.write_all(format!("{text}\n").as_bytes()).and_then(|()| err.flush());
        });
    }
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    class: Option<&'static str>,
    message: &'a str,
    whose_move: &'a str,
    next: &'a str,
    exit_code: u8,
}

#[cfg(test)]
pub mod captured {
    //! Screens whose streams a test can read.

    use super::*;

    #[derive(Clone, Default)]
    pub struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub fn text(&self) -> String {
            String::from_utf8(lock(&self.0).clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    pub fn screen(json: bool, quiet: bool) -> (Screen, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        (Screen::on(Box::new(out.clone()), Box::new(err.clone()), json, quiet, false), out, err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_stdout_is_remembered_and_nothing_else_happens() {
        let err = captured::Captured::default();
        let screen = Screen::on(Box::new(Closed), Box::new(err.clone()), true, false, false);
        screen.line("x");
        screen.line("y");
        assert!(screen.is_closed());
        assert_eq!(err.text(), "");
    }

    #[test]
    fn quiet_silences_all_but_errors() {
        let (screen, out, err) = captured::screen(false, true);
        screen.say("said");
        screen.note("noted");
        screen.failure(&Trouble::usage("wrong", "right"));
        assert_eq!(out.text(), "");
        assert!(err.text().starts_with("error: wrong\n") && !err.text().contains("noted"));
    }
}
