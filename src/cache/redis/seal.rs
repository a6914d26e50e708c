//! The seal on what is kept in Redis: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), in place.
//!
//! Its nonces are random: 24 bytes are so many that gateways which share a key need not agree on them.

use chacha20poly1305::{AeadInOut, Error, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rustls::crypto::{SecureRandom, ring};
use secrecy::zeroize::Zeroizing;

/// What its key is derived for: the names have another, of the same secret.
const PURPOSE: &str = "stepgate 2026 seal";

pub(super) const NONCE: usize = 24;
pub(super) const TAG: usize = 16;

/// Closes and opens with one key, which it neither prints nor leaves in memory.
#[derive(Debug)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    random: &'static dyn SecureRandom,
}

/// What opens the closed content again, beside the key.
pub(super) struct Closed {
    pub(super) nonce: [u8; NONCE],
    pub(super) tag: [u8; TAG],
}

impl Seal {
    /// With a key derived from what the configuration's `encryption_key` says.
    pub fn new(encryption_key: &str) -> Self {
        let key = Zeroizing::new(blake3::derive_key(PURPOSE, encryption_key.as_bytes()));
        Self {
            cipher: XChaCha20Poly1305::new((&*key).into()),
            random: ring::default_provider().secure_random,
        }
    }

    /// Encrypts `content` where it is. It opens only beside the same `place`, which is not kept with it.
    /// None where the system has no random bytes to give.
    pub(super) fn close(&self, place: &[u8], content: &mut [u8]) -> Option<Closed> {
        let mut nonce = [0; NONCE];
        self.random.fill(&mut nonce).ok()?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), place, content.into())
            .ok()?;
        Some(Closed {
            nonce,
            tag: tag.into(),
        })
    }

    /// Decrypts `content` where it is.
    ///
    /// # Errors
    /// It was not closed with this key beside this place, or is not as it was then. Nothing was
    /// decrypted.
    pub(super) fn open(
        &self,
        place: &[u8],
        closed: &Closed,
        content: &mut [u8],
    ) -> Result<(), Error> {
        let (nonce, tag) = (XNonce::from(closed.nonce), Tag::from(closed.tag));
        self.cipher
            .decrypt_inout_detached(&nonce, place, content.into(), &tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"a body, and what belongs to it";

    fn closed(seal: &Seal) -> (Closed, Vec<u8>) {
        let mut content = CONTENT.to_vec();
        let closed = seal.close(b"place", &mut content).unwrap();
        (closed, content)
    }

    #[test]
    fn what_is_closed_is_unreadable_until_it_is_opened() {
        let seal = Seal::new("a secret");
        let (closed, mut content) = closed(&seal);
        let alike = content.iter().zip(CONTENT).filter(|(a, b)| a == b).count();
        assert!(alike < CONTENT.len() / 2, "{content:?}");
        seal.open(b"place", &closed, &mut content).unwrap();
        assert_eq!(content, CONTENT);
    }

    #[test]
    fn it_opens_with_its_key_and_beside_its_place_only() {
        let seal = Seal::new("a secret");
        for (other, place) in [
            (&Seal::new("another"), &b"place"[..]),
            (&seal, b"elsewhere"),
            (&seal, b""),
        ] {
            let (closed, mut content) = closed(&seal);
            let before = content.clone();
            assert!(other.open(place, &closed, &mut content).is_err());
            assert_eq!(content, before, "nothing was decrypted");
        }
    }

    #[test]
    fn every_nonce_is_another() {
        let seal = Seal::new("a secret");
        let [one, other] = [closed(&seal), closed(&seal)];
        assert_ne!(one.0.nonce, other.0.nonce);
        assert_ne!(one.1, other.1, "the same content does not look the same");
    }

    #[test]
    fn the_key_is_not_the_secret_itself_and_not_that_of_the_names() {
        let secret = "0123456789abcdef0123456789abcdef";
        let mut content = CONTENT.to_vec();
        let closed = Seal::new(secret).close(b"", &mut content).unwrap();
        let keys = [
            *secret.as_bytes().first_chunk().unwrap(),
            blake3::derive_key("stepgate 2026 names", secret.as_bytes()),
        ];
        for key in keys {
            let other = Seal {
                cipher: XChaCha20Poly1305::new(&key.into()),
                ..Seal::new(secret)
            };
            assert!(other.open(b"", &closed, &mut content).is_err());
        }
        assert!(Seal::new(secret).open(b"", &closed, &mut content).is_ok());
    }

    #[test]
    fn a_key_is_not_printed() {
        let printed = format!("{:?}", Seal::new("a secret"));
        assert!(printed.contains("ChaChaPoly1305 { .. }"), "{printed}");
    }
}
