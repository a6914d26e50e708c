//! Generates random numbers that depend on nothing but the names in the seed.
//!
//! The sandbox's bodies, lifetimes and latencies and the pollers' intervals come from here, so two runs
//! of the demo, and a test beside the sandbox, see the same.

/// Draws numbers from the extended output of a hash.
pub(super) struct SeededRng(blake3::OutputReader);

impl SeededRng {
    /// Returns the generator that belongs to these names, in this order.
    pub(super) fn of(names: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hasher.update(name.as_bytes());
            // 0xff occurs in no UTF-8 text, so ("a", "bc") and ("ab", "c") differ.
            hasher.update(&[0xff]);
        }
        Self(hasher.finalize_xof())
    }

    fn next(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Returns a number from 0 up to, but not including, `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    /// Returns a number from 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        f64::from(self.next()) / f64::from(u32::MAX)
    }

    /// Returns one of `from`.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.next() as usize % from.len()]
    }

    /// Returns an id like the upstream's: the prefix and 24 letters and digits.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut id = prefix.to_owned();
        id.extend((0..24).map(|_| char::from(ALPHABET[self.below(62) as usize])));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_their_boundaries_are_the_seed() {
        let draw = |names: &[&str]| SeededRng::of(names).id("x_");
        assert_eq!(draw(&["a", "bc"]), draw(&["a", "bc"]));
        assert_ne!(draw(&["a", "bc"]), draw(&["ab", "c"]));
    }

    #[test]
    fn shares_spread_over_the_whole_range() {
        let mut rng = SeededRng::of(&["spread"]);
        let shares: Vec<f64> = (0..1000).map(|_| rng.share()).collect();
        assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)));
        assert!(shares.iter().any(|s| *s < 0.05) && shares.iter().any(|s| *s > 0.95));
    }
}
