//! Random numbers and UUIDs, given from outside: the interpreter itself draws nothing.

/// Where an execution's random numbers come from.
pub trait Chance {
    /// Any number of 64 bits, each as likely as the others.
    fn number(&mut self) -> u64;

    /// At least 0, less than `span`.
    fn below(&mut self, span: u64) -> u64 {
        // The tilt of the modulo is far below what a jitter could show.
        if span == 0 { 0 } else { self.number() % span }
    }

    /// At least 0, less than 1.
    fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Version 4.
    fn uuid(&mut self) -> String {
        let (high, low) = (self.number(), self.number());
        let (high, low) = ((high & !0xf000) | 0x4000, (low >> 2) | (1 << 63));
        let text = format!("{high:016x}{low:016x}");
        [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
    }
}

/// The same numbers for the same seed (SplitMix64): for trials and tests, and for `States.MathRandom` with a seed.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Chance for Seeded {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
