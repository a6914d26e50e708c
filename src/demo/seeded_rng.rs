//! Chance that repeats: a stream of numbers that depends on nothing but the names it was given.
//!
//! The sandbox's bodies, lifetimes and latencies and the pollers' paces come from here, so that
//! two runs, and a test beside the sandbox, see the same.

/// A stream of numbers drawn from a hash's extended output.
pub(super) struct SeededRng(blake3::OutputReader);

impl SeededRng {
    /// The stream that belongs to these names, in this order.
    pub(super) fn of(names: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hasher.update(name.as_bytes());
            // 0xff is in no UTF-8 text: ("a", "bc") and ("ab", "c") differ.
            hasher.update(&[0xff]);
        }
        Self(hasher.finalize_xof())
    }

    fn next(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// 0 up to, but not including, `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    /// 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        f64::from(self.next()) / f64::from(u32::MAX)
    }

    /// One of them.
    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.next() as usize % from.len()]
    }

    /// An id as the upstream makes them: the prefix and 24 letters and digits.
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
    fn the_names_and_where_they_end_decide() {
        let draw = |names: &[&str]| SeededRng::of(names).id("x_");
        assert_eq!(draw(&["a", "bc"]), draw(&["a", "bc"]));
        assert_ne!(draw(&["a", "bc"]), draw(&["ab", "c"]));
    }

    #[test]
    fn shares_spread_over_the_whole_range() {
        let mut dice = SeededRng::of(&["spread"]);
        let shares: Vec<f64> = (0..1000).map(|_| dice.share()).collect();
        assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)));
        assert!(shares.iter().any(|s| *s < 0.05) && shares.iter().any(|s| *s > 0.95));
    }
}
