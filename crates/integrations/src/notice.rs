//! The port to whatever tells people how a transfer ended, and the two ways that every machine has: its log and a file.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;

use crate::Fault;

/// One message to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The same each time this notice is told.
    pub key: String,
    pub title: String,
    pub text: String,
}

#[async_trait]
pub trait Notifier: Send + Sync + std::fmt::Debug {
    /// `Unknown` where nobody can say whether it was heard: it is not told again.
    async fn notify(&self, notice: &Notice) -> Result<(), Fault>;
}

/// Tells the log of the program.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    async fn notify(&self, notice: &Notice) -> Result<(), Fault> {
        tracing::info!(key = %notice.key, title = %notice.title, "{}", notice.text.replace('\n', "; "));
        Ok(())
    }
}

/// Appends a JSON line to a file.
#[derive(Debug, Clone)]
pub struct FileNotifier {
    path: PathBuf,
}

impl FileNotifier {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl Notifier for FileNotifier {
    async fn notify(&self, notice: &Notice) -> Result<(), Fault> {
        let line = serde_json::json!({"v": 1, "type": "notice", "key": notice.key, "title": notice.title, "text": notice.text});
        let unavailable = |e: std::io::Error| Fault::Unavailable(format!("{}: {e}", self.path.display()));
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&self.path).await.map_err(unavailable)?;
        // One write, so that lines of two processes do not mix.
        file.write_all(format!("{line}\n").as_bytes()).await.map_err(unavailable)?;
        file.sync_data().await.map_err(unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notice_is_one_line_of_the_file() {
        let path = std::env::temp_dir().join(format!("notices-{}-{:?}", std::process::id(), std::thread::current().id()));
        let notifier = FileNotifier::new(path.clone());
        let notice = Notice { key: "k".into(), title: "delivered".into(), text: "two\nlines".into() };
        notifier.notify(&notice).await.unwrap();
        notifier.notify(&notice).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap()["text"], "two\nlines");
    }
}
