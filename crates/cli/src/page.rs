//! `receipt page`: a page per transfer for the partner, with sums and a signature that public tools check.

use std::collections::BTreeMap;
use std::path::Path;

use app::page::{Imprint, Page, page};
use model::{ErrorClass, Receipt, receipt, sshsig};
use runtime::keys;
use serde_json::json;

use crate::args::PageArgs;
use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::receipt::read_bounded;
use crate::trouble::Trouble;

pub fn write(args: &PageArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let text = read_bounded(&args.file)?;
    let key = keys::load_or_create(&environment.state)?;
    let trusted = keys::trusted(&environment.state)?;
    let mut transfers: BTreeMap<String, Vec<Receipt>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if crate::receipt::is_other(line) {
            continue;
        }
        let number = index + 1;
        // Whoever signs a page vouches for every line on it.
        let verified = receipt::verify_line(line)
            .map_err(|e| Trouble::of_class(ErrorClass::IntegrityMismatch, format!("line {number}: {e}; no page was written")))?;
        if !trusted.iter().any(|known| known.fingerprint == verified.fingerprint) {
            let text = format!("line {number} is signed by {}, which is not trusted here; no page was written", verified.fingerprint);
            return Err(Trouble::of_class(ErrorClass::DestHostKey, text));
        }
        if verified.receipt.kind == "file" {
            transfers.entry(verified.receipt.transfer_id.to_string()).or_default().push(verified.receipt);
        }
    }
    if transfers.is_empty() {
        return Err(Trouble::usage(format!("{} holds no receipt", args.file.display()), "name a file written by --receipt or --json"));
    }
    let out = environment.expand(&args.out);
    let allowed_signer = sshsig::allowed_signer(&key);
    std::fs::create_dir_all(&out).map_err(|e| unwritable(&out, &e))?;
    store(&out.join("allowed_signers"), &allowed_signer)?;
    for (name, receipts) in &transfers {
        let imprint = Imprint { name, fingerprint: &key.fingerprint(), allowed_signer: &allowed_signer };
        let Page { html, text, sums } = page(receipts, &imprint);
        let signature = sshsig::sign(&key, sums.as_bytes());
        for (ending, content) in [("html", &html), ("txt", &text), ("sha256", &sums), ("sha256.sig", &signature)] {
            store(&out.join(format!("{name}.{ending}")), content)?;
        }
        let file = out.join(format!("{name}.html"));
        screen.say(&format!("{} with {}", file.display(), crate::report::files(receipts.len() as u64)));
        screen.object(&json!({"v": 1, "type": "page", "transfer_id": name, "file": file.display().to_string(), "files": receipts.len()}));
    }
    Ok(exit::DONE)
}

fn store(path: &Path, content: &str) -> Result<(), Trouble> {
    std::fs::write(path, content).map_err(|e| unwritable(path, &e))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::usage(format!("{}: {error}", path.display()), "name another directory with --out")
}
