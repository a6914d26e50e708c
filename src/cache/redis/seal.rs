//! The encryption of entries in Redis: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), in place.
//!
//! Nonces are random. At 24 bytes, gateways that share a key need no agreement on them.

use chacha20poly1305::{AeadInOut, Error, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rustls::crypto::{SecureRandom, ring};
use secrecy::zeroize::Zeroizing;

/// The context from which the key is derived. The names in Redis use another key of the same secret.
const CONTEXT: &str = "stepgate 2026 seal";

pub(super) const NONCE_LEN: usize = 24;
pub(super) const TAG_LEN: usize = 16;

/// Encrypts and decrypts with one key. The key is not printed, and zeroed in memory on drop.
#[derive(Debug)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    random: &'static dyn SecureRandom,
}

impl Seal {
    /// Derives the key from the configuration's `encryption_key`.
    pub fn new(encryption_key: &str) -> Self {
        let key = Zeroizing::new(blake3::derive_key(CONTEXT, encryption_key.as_bytes()));
        Self {
            cipher: XChaCha20Poly1305::new((&*key).into()),
            random: ring::default_provider().secure_random,
        }
    }

    /// Encrypts `content` in place and returns the nonce and the tag. Decryption needs the same `aad`
    /// (associated data), which is not stored. Returns `None` if the system has no random bytes.
    pub(super) fn encrypt(
        &self,
        aad: &[u8],
        content: &mut [u8],
    ) -> Option<([u8; NONCE_LEN], [u8; TAG_LEN])> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(nonce), aad, content.into())
            .ok()?;
        Some((nonce, tag.into()))
    }

    /// Decrypts `content` in place.
    ///
    /// # Errors
    /// Fails if key or `aad` differ or the content was changed. `content` is unchanged then.
    pub(super) fn decrypt(
        &self,
        aad: &[u8],
        (nonce, tag): ([u8; NONCE_LEN], [u8; TAG_LEN]),
        content: &mut [u8],
    ) -> Result<(), Error> {
        let (nonce, tag) = (XNonce::from(nonce), Tag::from(tag));
        self.cipher
            .decrypt_inout_detached(&nonce, aad, content.into(), &tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"a body, and what belongs to it";

    type NonceAndTag = ([u8; NONCE_LEN], [u8; TAG_LEN]);

    fn encrypted(seal: &Seal) -> (NonceAndTag, Vec<u8>) {
        let mut content = CONTENT.to_vec();
        let nonce_and_tag = seal.encrypt(b"aad", &mut content).unwrap();
        (nonce_and_tag, content)
    }

    #[test]
    fn encrypted_content_is_unreadable_until_it_is_decrypted() {
        let seal = Seal::new("a secret");
        let (nonce_and_tag, mut content) = encrypted(&seal);
        let same = content.iter().zip(CONTENT).filter(|(a, b)| a == b).count();
        assert!(same < CONTENT.len() / 2, "{content:?}");
        seal.decrypt(b"aad", nonce_and_tag, &mut content).unwrap();
        assert_eq!(content, CONTENT);
    }

    #[test]
    fn decryption_needs_the_same_key_and_associated_data() {
        let seal = Seal::new("a secret");
        for (other, aad) in [
            (&Seal::new("another"), &b"aad"[..]),
            (&seal, b"other"),
            (&seal, b""),
        ] {
            let (nonce_and_tag, mut content) = encrypted(&seal);
            let before = content.clone();
            assert!(other.decrypt(aad, nonce_and_tag, &mut content).is_err());
            assert_eq!(content, before, "nothing was decrypted");
        }
    }

    #[test]
    fn every_encryption_has_another_nonce() {
        let seal = Seal::new("a secret");
        let [one, other] = [encrypted(&seal), encrypted(&seal)];
        assert_ne!(one.0.0, other.0.0);
        assert_ne!(one.1, other.1, "equal content is not recognisable");
    }

    #[test]
    fn the_key_is_neither_the_secret_nor_the_key_of_the_names() {
        let secret = "0123456789abcdef0123456789abcdef";
        let mut content = CONTENT.to_vec();
        let nonce_and_tag = Seal::new(secret).encrypt(b"", &mut content).unwrap();
        let keys = [
            *secret.as_bytes().first_chunk().unwrap(),
            blake3::derive_key("stepgate 2026 names", secret.as_bytes()),
        ];
        for key in keys {
            let other = Seal {
                cipher: XChaCha20Poly1305::new(&key.into()),
                ..Seal::new(secret)
            };
            assert!(other.decrypt(b"", nonce_and_tag, &mut content).is_err());
        }
        let seal = Seal::new(secret);
        assert!(seal.decrypt(b"", nonce_and_tag, &mut content).is_ok());
    }

    #[test]
    fn debug_output_does_not_contain_the_key() {
        let printed = format!("{:?}", Seal::new("a secret"));
        assert!(printed.contains("ChaChaPoly1305 { .. }"), "{printed}");
    }
}
