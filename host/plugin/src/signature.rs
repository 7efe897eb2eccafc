//! Signatures of plugins: trusted keys, verifying and signing. Reads and writes no files.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;

/// Length of a key, public or private, and of a signature, in bytes.
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// What public keys and signatures begin with.
const PUBLIC_PREFIX: &str = "ed25519:";
/// What private keys begin with. It differs, so that neither is mistaken for the other.
const SECRET_PREFIX: &str = "ed25519-secret:";

/// Part of what is signed, so that a signature made for another purpose is not valid for a plugin.
const DOMAIN: &[u8] = b"switchyard plugin v1\0";

/// `[signatures]`: which keys are trusted, and whether plugins must be signed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// The trusted keys. If there are none, signatures are ignored.
    pub keys: Vec<PublicKey>,
    /// Whether plugins without a signature are rejected.
    pub require: bool,
}

/// The public key of somebody who signs plugins. It is written as `ed25519:` and 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey([u8; KEY_BYTES]);

/// A key that cannot be parsed. The error does not repeat the text, which may be a private key in the wrong
/// place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key.
    #[error(
        "a trusted key must be 'ed25519:' and 32 bytes in base64, as printed by `switchyard plugin keygen`"
    )]
    Public,
    /// Not a private key.
    #[error(
        "not a private key: expected one line, 'ed25519-secret:' and 32 bytes in base64, as written by `switchyard \
         plugin keygen`"
    )]
    Secret,
}

/// Why a plugin is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is not in the expected format.
    #[error(
        "plugin '{plugin}': its signature is malformed: expected one line, 'ed25519:' and 64 bytes in base64, as \
         written by `switchyard plugin sign`"
    )]
    Malformed {
        /// The plugin's name in the configuration.
        plugin: String,
    },
    /// The signature is not valid for this file and any of the trusted keys.
    #[error(
        "plugin '{plugin}': its signature matches no key in signatures.keys: the file or the signature was changed, \
         or it was signed with another key. Sign the file again with a trusted key, or add the signer's public key \
         to signatures.keys"
    )]
    NoMatchingKey {
        /// The plugin's name in the configuration.
        plugin: String,
    },
    /// There is no signature, but one is required.
    #[error(
        "plugin '{plugin}' is not signed, but signatures.require is set: sign it with `switchyard plugin sign` and a \
         trusted key, and put the .sig file beside it (over HTTP: the header X-Signature)"
    )]
    Missing {
        /// The plugin's name in the configuration.
        plugin: String,
    },
    /// The version was signed with a key that is no longer trusted.
    #[error("plugin '{plugin}' was signed with {key}, which is no longer in signatures.keys")]
    KeyRemoved {
        /// The plugin's name in the configuration.
        plugin: String,
        /// The public key that signed it.
        key: String,
    },
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        decode(PUBLIC_PREFIX, &text).map(Self).ok_or(KeyError::Public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl Trust {
    /// Checks whether these bytes may be loaded. Returns the trusted key that signed them, if there is one.
    /// `name` is the plugin's name, for the error.
    ///
    /// # Errors
    ///
    /// Fails if the signature is wrong, or if it is missing but required.
    pub fn verify(
        &self,
        name: &str,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<String>, SignatureError> {
        // Without a trusted key, nothing can be said about a signature.
        let Some(text) = signature.filter(|_| !self.keys.is_empty()) else {
            return self.admit(name, None).map(|()| None);
        };
        let signature: [u8; SIGNATURE_BYTES] = decode(PUBLIC_PREFIX, text)
            .ok_or_else(|| SignatureError::Malformed { plugin: name.to_owned() })?;
        let message = signed_message(bytes);
        let matches =
            |key: &&PublicKey| UnparsedPublicKey::new(&ED25519, key.0).verify(&message, &signature).is_ok();
        match self.keys.iter().find(matches) {
            Some(key) => Ok(Some(key.to_string())),
            None => Err(SignatureError::NoMatchingKey { plugin: name.to_owned() }),
        }
    }

    /// Checks whether a version that was verified earlier may still be loaded. `signed_by` is what
    /// [`verify`](Self::verify) returned then.
    ///
    /// # Errors
    ///
    /// Fails if the key is no longer trusted, or if the version is not signed but must be.
    pub fn admit(&self, name: &str, signed_by: Option<&str>) -> Result<(), SignatureError> {
        match signed_by {
            None if self.require => Err(SignatureError::Missing { plugin: name.to_owned() }),
            Some(key)
                if !self.keys.is_empty() && !self.keys.iter().any(|trusted| trusted.to_string() == key) =>
            {
                Err(SignatureError::KeyRemoved { plugin: name.to_owned(), key: key.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// A private key that signs plugins. It does not implement `Debug`, so that it is not logged by mistake.
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// Generates a key from the system's random numbers.
    ///
    /// # Errors
    ///
    /// Fails if the system provides no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; KEY_BYTES];
        getrandom::fill(&mut seed)?;
        Ok(Self(seed))
    }

    /// Reads what [`reveal`](Self::reveal) writes.
    ///
    /// # Errors
    ///
    /// Fails if the text is not a private key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(SECRET_PREFIX, text).map(Self).ok_or(KeyError::Secret)
    }

    /// The key as text, for the file in which its owner keeps it.
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }

    /// The public key that belongs to this one.
    pub fn public(&self) -> PublicKey {
        let public = self.pair().public_key().as_ref().try_into();
        PublicKey(public.expect("a public key has 32 bytes"))
    }

    /// Signs the bytes of a plugin's file. Returns what belongs into the signature file, without a line break.
    pub fn sign(&self, bytes: &[u8]) -> String {
        format!("{PUBLIC_PREFIX}{}", BASE64_STANDARD.encode(self.pair().sign(&signed_message(bytes))))
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("any 32 bytes are a seed")
    }
}

/// What is signed for a file: the domain and the file's SHA-256.
fn signed_message(bytes: &[u8]) -> Vec<u8> {
    [DOMAIN, &Sha256::digest(bytes)].concat()
}

fn decode<const N: usize>(prefix: &str, text: &str) -> Option<[u8; N]> {
    let text = text.trim().strip_prefix(prefix)?;
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> SecretKey {
        SecretKey([byte; KEY_BYTES])
    }

    fn trust(keys: &[u8], require: bool) -> Trust {
        Trust { keys: keys.iter().map(|byte| secret(*byte).public()).collect(), require }
    }

    #[test]
    fn a_signature_is_valid_only_for_its_bytes_and_key() {
        let (key, trust) = (secret(2), trust(&[1, 2], false));
        let by = key.public().to_string();
        let signature = key.sign(b"a plugin");
        assert_eq!(trust.verify("p", b"a plugin", Some(&format!("{signature}\n"))), Ok(Some(by)));
        for (what, bytes, signature) in [
            ("another byte", &b"a plugiN"[..], signature.clone()),
            ("another key", b"a plugin", secret(3).sign(b"a plugin")),
            ("no base64", b"a plugin", "ed25519:!".into()),
            ("half of it", b"a plugin", signature[..50].into()),
            ("nothing", b"a plugin", String::new()),
            ("another algorithm", b"a plugin", signature.replace("ed25519", "rsa")),
            ("without the domain", b"a plugin", {
                let bare = key.pair().sign(&Sha256::digest(b"a plugin"));
                format!("{PUBLIC_PREFIX}{}", BASE64_STANDARD.encode(bare))
            }),
        ] {
            let error = trust.verify("p", bytes, Some(&signature)).expect_err(what).to_string();
            assert!(error.starts_with("plugin 'p': its signature"), "{what}: {error}");
        }
    }

    #[test]
    fn an_unsigned_plugin_is_rejected_only_if_signatures_are_required() {
        assert_eq!(trust(&[1], false).verify("p", b"x", None), Ok(None));
        let error = trust(&[1], true).verify("p", b"x", None).unwrap_err().to_string();
        assert!(error.contains("plugin 'p' is not signed") && error.contains("X-Signature"), "{error}");
        assert_eq!(
            trust(&[], false).verify("p", b"x", Some("ed25519:anything")),
            Ok(None),
            "without keys, signatures are ignored"
        );
    }

    #[test]
    fn a_version_is_no_longer_admitted_once_its_key_was_removed() {
        let by = secret(1).public().to_string();
        assert_eq!(trust(&[1], true).admit("p", Some(&by)), Ok(()));
        assert!(trust(&[2], false).admit("p", Some(&by)).unwrap_err().to_string().contains(&by));
        assert!(trust(&[1], true).admit("p", None).is_err());
        assert_eq!(trust(&[1], false).admit("p", None), Ok(()));
    }

    #[test]
    fn keys_survive_a_round_trip_and_errors_do_not_repeat_them() {
        let key = SecretKey::generate().unwrap();
        let again = SecretKey::parse(&format!("{}\n", key.reveal())).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::try_from(key.public().to_string()), Ok(key.public()));
        let secret = key.reveal();
        let misplaced = PublicKey::try_from(secret.clone()).unwrap_err();
        let truncated = SecretKey::parse(&secret[..40]).err().unwrap();
        for error in [misplaced, truncated].map(|error| error.to_string()) {
            assert!(!error.contains(&secret["ed25519-secret:".len()..30]), "{error}");
        }
    }

    /// RFC 8032, section 7.1, test 1: the seed and its public key.
    #[test]
    fn keys_match_the_test_vector_of_rfc_8032() {
        let bytes = |hex: &str| -> [u8; KEY_BYTES] {
            std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
        };
        let seed = bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(SecretKey(seed).public(), PublicKey(public));
    }
}
