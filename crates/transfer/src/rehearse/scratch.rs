//! Scratch files: their names, remembered before they are made, and content that no server can guess or squeeze.

use bytes::Bytes;
use model::{RemotePath, TempName, TransferId};

use crate::Result;

/// The names that were used and may be there.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: RemotePath,
    template: TempName,
    unique: TransferId,
    next: u32,
    there: Vec<(RemotePath, bool)>,
}

impl Scratch {
    pub fn new(directory: RemotePath, template: TempName, unique: TransferId) -> Self {
        Self { directory, template, unique, next: 1, there: Vec::new() }
    }

    /// A name that nobody has used, from now on one of ours.
    pub fn fresh(&mut self) -> Result<RemotePath> {
        let path = self.unused()?;
        self.there.push((path.clone(), false));
        Ok(path)
    }

    pub fn fresh_directory(&mut self) -> Result<RemotePath> {
        let path = self.unused()?;
        self.there.push((path.clone(), true));
        Ok(path)
    }

    /// A name that nobody has used, to make others of.
    pub fn unused(&mut self) -> Result<RemotePath> {
        self.next += 1;
        Ok(self.template.scratch(&self.directory, &self.unique, self.next - 1)?)
    }

    /// The rehearsal that a name of this directory belongs to, if it is one of a scratch file.
    pub fn whose(&self, name: &str) -> Option<String> {
        self.template.scratch_of(name)
    }

    /// A name that is ours too, although it was made differently.
    pub fn adopt(&mut self, path: RemotePath) {
        if self.there.iter().all(|(known, _)| *known != path) {
            self.there.push((path, false));
        }
    }

    pub fn removed(&mut self, path: &RemotePath) {
        self.there.retain(|(known, _)| known != path);
    }

    pub fn is_directory(&self, path: &RemotePath) -> bool {
        self.there.iter().any(|(known, directory)| known == path && *directory)
    }

    pub fn left(&self) -> Vec<RemotePath> {
        self.there.iter().map(|(path, _)| path.clone()).collect()
    }
}

/// Bytes that depend on their place alone, so that what lies elsewhere is seen. A step of SplitMix64 for every eight.
pub(super) fn content(offset: u64, length: usize) -> Bytes {
    let word = |index: u64| {
        let mut z = (index ^ 0x0f11_efe2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut out = Vec::with_capacity(length + 16);
    let first = offset / 8;
    let skip = (offset % 8) as usize;
    for index in first..first + (length + skip).div_ceil(8) as u64 {
        out.extend_from_slice(&word(index));
    }
    out.truncate(skip + length);
    out.drain(..skip);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_its_place_alone() {
        let whole = content(0, 1000);
        for (offset, length) in [(0, 1), (3, 8), (7, 500), (8, 16), (991, 9), (500, 0)] {
            assert_eq!(content(offset as u64, length), whole.slice(offset..offset + length), "{offset} {length}");
        }
    }

    #[test]
    fn a_name_is_ours_until_it_is_removed() {
        let directory = RemotePath::root().join("in").unwrap();
        let mut scratch = Scratch::new(directory, TempName::default(), TransferId::from_random([7; 10]));
        let (a, b) = (scratch.fresh().unwrap(), scratch.fresh_directory().unwrap());
        assert!(a != b && scratch.whose(a.name()).is_some() && scratch.whose("a.csv").is_none());
        assert!(scratch.is_directory(&b) && !scratch.is_directory(&a));
        scratch.adopt(a.clone());
        scratch.removed(&a);
        assert_eq!(scratch.left(), [b]);
    }
}
