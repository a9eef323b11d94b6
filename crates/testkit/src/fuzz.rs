//! Feeds the entry points of the fuzzers on stable Rust: the seeds, their mutations and random bytes, always the same
//! ones. `fuzz/` searches further.

use std::path::Path;

const INPUTS: u64 = 100_000;
/// Another number of inputs, for a longer search.
const MORE: &str = "FILEFERRY_FUZZ_INPUTS";
const LONGEST: usize = 400;

/// xorshift64*: the same inputs on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() >> 33) as usize % bound.max(1)
    }

    /// Characters that parsers look at come more often than others.
    fn byte(&mut self) -> u8 {
        const TELLING: &[u8] = b"\r\n -;=(),|\"0123456789/.>:{}[]*?!@#%\xff\0";
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.roll() as u8 }
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(80)).map(|_| self.byte()).collect()
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 + self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(6) {
                0 if at < input.len() => input[at] = self.byte(),
                1 if at < input.len() => input[at] ^= 1 << self.below(8),
                2 => input.truncate(at),
                3 => input.insert(at, self.byte()),
                4 => {
                    let from = self.below(other.len() + 1);
                    input.splice(at.., other[from..].iter().copied());
                }
                _ => {
                    let again = input[at..].to_vec();
                    input.extend_from_slice(&again);
                }
            }
            input.truncate(LONGEST);
        }
    }
}

/// Gives `entry` the seeds of `fuzz/seeds/TARGET`, their mutations and random bytes, and names the input that it fails on.
///
/// # Panics
/// When `entry` does.
pub fn feed(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(seeds.len() >= 4, "{} holds seeds", folder.display());
    seeds.iter().for_each(|seed| entry(seed));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let inputs = std::env::var(MORE).map_or(INPUTS, |text| text.parse().expect("a number of inputs"));
    for turn in 0..inputs {
        let input = if turn % 5 == 0 {
            dice.bytes()
        } else {
            let mut input = seeds[dice.below(seeds.len())].clone();
            let other = dice.below(seeds.len());
            dice.mutate(&mut input, &seeds[other]);
            input
        };
        if std::panic::catch_unwind(|| entry(&input)).is_err() {
            panic!("{target} fails on \"{}\"", input.escape_ascii());
        }
    }
}
