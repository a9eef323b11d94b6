//! A receipt as a page: what a partner can read, and check without us. Everything on it comes from signed receipts, and
//! whatever came from outside is escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::contract::sum_line;
use model::{ByteCount, Grade, Receipt};

/// The same content for a screen, for a terminal and for `sha256sum -c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub html: String,
    pub text: String,
    pub sums: String,
}

/// How the page's files are called, and the key that signed the sums.
#[derive(Debug, Clone)]
pub struct Imprint<'a> {
    pub name: &'a str,
    pub fingerprint: &'a str,
    pub allowed_signer: &'a str,
}

/// What a grade says, in words for someone who does not know ours.
fn in_words(receipt: &Receipt) -> String {
    let compared = &receipt.verification;
    match compared.grade {
        Grade::ServerHash => {
            format!("the server computed the {} itself, and it is that of the source", compared.algorithm.as_deref().unwrap_or("digest"))
        }
        Grade::ReadBack => format!("all {} bytes were read back from the server and compared with the source", compared.bytes_compared),
        Grade::Sampled => {
            format!(
                "{} blocks ({} bytes) were read back from the server and compared with the source",
                compared.blocks, compared.bytes_compared
            )
        }
        Grade::Acknowledged => "the server confirmed every part; the content was not read back".to_owned(),
        Grade::Size => "the size at the server is that of the source; the content was not read back".to_owned(),
        Grade::None => "nothing was compared at the server".to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in model::escape_name(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The directory that all files are below; names in the sums are relative to it.
fn common_directory(receipts: &[&Receipt]) -> String {
    let mut common: Option<Vec<&str>> = None;
    for receipt in receipts {
        let mut parts: Vec<&str> = receipt.destination.path.as_str().split('/').collect();
        parts.pop();
        common = Some(match common {
            None => parts,
            Some(common) => common.into_iter().zip(parts).take_while(|(a, b)| a == b).map(|(a, _)| a).collect(),
        });
    }
    common.unwrap_or_default().join("/") + "/"
}

/// `receipts` are intact, in the order of their lines, and of one transfer.
pub fn page(receipts: &[Receipt], imprint: &Imprint<'_>) -> Page {
    // Of several deliveries under one name the last one is there now.
    let mut last: BTreeMap<&str, &Receipt> = BTreeMap::new();
    for receipt in receipts {
        last.insert(receipt.destination.path.as_str(), receipt);
    }
    let receipts: Vec<&Receipt> = last.into_values().collect();
    let directory = common_directory(&receipts);
    let below = |receipt: &Receipt| receipt.destination.path.as_str().strip_prefix(&directory).unwrap_or_default().to_owned();
    let sums: String = receipts.iter().filter_map(|r| Some(sum_line(r.sha256.as_deref()?, &below(r)))).collect();
    let (html, text) = (as_html(&receipts, &directory, imprint), as_text(&receipts, &directory, imprint));
    Page { html, text, sums }
}

fn commands(name: &str) -> [String; 2] {
    [
        format!("ssh-keygen -Y verify -f allowed_signers -I fileferry -n file -s {name}.sha256.sig < {name}.sha256"),
        format!("sha256sum -c {name}.sha256"),
    ]
}

fn heading(receipts: &[&Receipt]) -> Option<(String, String, u64)> {
    let first = receipts.first()?;
    let to = &first.destination;
    let user = to.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
    let server = format!("{}://{user}{}:{}", to.protocol, to.host, to.port);
    Some((first.transfer_id.to_string(), server, receipts.iter().map(|r| r.size).sum()))
}

fn as_text(receipts: &[&Receipt], directory: &str, imprint: &Imprint<'_>) -> String {
    let Some((transfer, server, bytes)) = heading(receipts) else { return String::new() };
    let mut out = format!(
        "Receipt of transfer {transfer}\n\n{} files, {} ({bytes} bytes), delivered to {} in {}\n\n",
        receipts.len(),
        ByteCount(bytes),
        model::escape_name(&server),
        model::escape_name(directory)
    );
    for receipt in receipts {
        let name = model::escape_name(receipt.destination.path.as_str().strip_prefix(directory).unwrap_or_default());
        let _ = writeln!(out, "{name}");
        let _ = writeln!(out, "  size       {} bytes", receipt.size);
        let _ = writeln!(out, "  delivered  {:.0}", receipt.finished_at);
        let _ = writeln!(out, "  sha256     {}", receipt.sha256.as_deref().unwrap_or("was not computed"));
        let _ = writeln!(out, "  crc64nvme  {}", receipt.crc64nvme);
        let _ = writeln!(out, "  proof      {}", in_words(receipt));
        let key = &receipt.source.key;
        let _ = writeln!(out, "  from       {}://{}/{key}", receipt.source.store, model::escape_name(&receipt.source.bucket));
    }
    let [signature, sums] = commands(imprint.name);
    let _ = write!(
        out,
        "\nTo check the list without us, in the directory of the files:\n\n  {signature}\n  {sums}\n\nallowed_signers holds our key, whose \
         fingerprint among receipts is {}; confirm it by another way than this page:\n\n  {}",
        imprint.fingerprint, imprint.allowed_signer
    );
    out
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem;text-align:left;vertical-align:top}\
code,pre{font:13px ui-monospace,monospace;word-break:break-all;white-space:pre-wrap}pre{background:#f4f4f4;padding:.8rem}\
td.n{text-align:right;white-space:nowrap}";

fn as_html(receipts: &[&Receipt], directory: &str, imprint: &Imprint<'_>) -> String {
    let Some((transfer, server, bytes)) = heading(receipts) else { return String::new() };
    let mut rows = String::new();
    for receipt in receipts {
        let name = escape(receipt.destination.path.as_str().strip_prefix(directory).unwrap_or_default());
        let _ = writeln!(
            rows,
            "<tr><td>{name}<br><code>{}</code></td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>",
            escape(receipt.sha256.as_deref().unwrap_or("sha256 was not computed")),
            receipt.size,
            escape(&format!("{:.0}", receipt.finished_at)),
            escape(&in_words(receipt)),
        );
    }
    let [signature, sums] = commands(imprint.name);
    // The policy forbids what escaping has already made impossible.
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Receipt of transfer {transfer}</title><style>{STYLE}</style></head><body>\n\
         <h1>Receipt of transfer {transfer}</h1>\n<p>{} files, {} ({bytes} bytes), delivered to <code>{}</code> in <code>{}</code>.</p>\n\
         <table><tr><th>file, SHA-256</th><th>bytes</th><th>delivered</th><th>proof</th></tr>\n{rows}</table>\n\
         <h2>Checking it without us</h2>\n<p>In the directory of the files, with <code>{name}.sha256</code>, <code>{name}.sha256.sig</code> and \
         <code>allowed_signers</code> beside them:</p>\n<pre>{}\n{}</pre>\n\
         <p><code>allowed_signers</code> holds our key. Its fingerprint among our receipts is <code>{}</code>; confirm it by another way \
         than this page.</p>\n<pre>{}</pre>\n</body></html>\n",
        receipts.len(),
        escape(&ByteCount(bytes).to_string()),
        escape(&server),
        escape(directory),
        escape(&signature),
        escape(&sums),
        escape(imprint.fingerprint),
        escape(imprint.allowed_signer.trim_end()),
        name = escape(imprint.name),
    )
}
