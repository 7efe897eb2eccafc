//! Who vouches for a plugin's bytes: trusted keys, verifying and signing. Reads and writes no files.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes of a public key, of a secret one, and of a signature.
const KEY: usize = 32;
const SIGNATURE: usize = 64;

const ALGORITHM: &str = "ed25519:";
/// Another word, so that the two are never taken for one another.
const SECRET: &str = "ed25519-secret:";

/// A signature of anything else is none of a plugin.
const DOMAIN: &[u8] = b"switchyard plugin v1\0";

/// `[signatures]`: whose plugins are loaded.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Without any, signatures mean nothing.
    pub keys: Vec<PublicKey>,
    /// Whether plugins without a signature are refused.
    pub require: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey([u8; KEY]);

impl TryFrom<String> for PublicKey {
    type Error = String;

    /// The error does not repeat the text, which may be a secret key put into the wrong place.
    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            "a trusted key is 'ed25519:' and 32 bytes in base64, as `switchyard plugin keygen` prints";
        decode(ALGORITHM, &text).map(Self).ok_or_else(|| wrong.to_owned())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl Trust {
    /// Whether the bytes may be loaded. Gives the trusted key that vouches for them, if one does.
    pub fn verify(
        &self,
        name: &str,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<String>, String> {
        // Nothing can be said of a signature without a key.
        let Some(text) = signature.filter(|_| !self.keys.is_empty()) else {
            return self.admit(name, None).map(|()| None);
        };
        let signature: [u8; SIGNATURE] = decode(ALGORITHM, text).ok_or_else(|| {
            format!("plugin '{name}': its signature is none: it must be one line, 'ed25519:' and 64 bytes in base64, as `switchyard plugin sign` writes")
        })?;
        let digest = digest(bytes);
        let signed =
            |key: &&PublicKey| UnparsedPublicKey::new(&ED25519, key.0).verify(&digest, &signature).is_ok();
        match self.keys.iter().find(signed) {
            Some(key) => Ok(Some(key.to_string())),
            None => Err(format!(
                "plugin '{name}': its signature fits no key in signatures.keys: the file or the signature was \
                 changed, or it was signed with another key. Sign the file again with a trusted key, or put the \
                 signer's public key into signatures.keys"
            )),
        }
    }

    /// Whether a version that was verified before, with this result, may be loaded still.
    pub fn admit(&self, name: &str, signed_by: Option<&str>) -> Result<(), String> {
        match signed_by {
            None if self.require => Err(format!(
                "plugin '{name}' is not signed, which signatures.require asks for: sign it with `switchyard plugin \
                 sign` and a trusted key, and put the .sig file beside it (over HTTP: the header X-Signature)"
            )),
            Some(by) if !self.keys.is_empty() && !self.keys.iter().any(|key| key.to_string() == by) => {
                Err(format!("plugin '{name}' was signed with {by}, which is no longer in signatures.keys"))
            }
            _ => Ok(()),
        }
    }
}

/// Signs plugins. Has no `Debug`, so that it is not logged by mistake.
pub struct SecretKey([u8; KEY]);

impl SecretKey {
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; KEY];
        getrandom::fill(&mut seed)?;
        Ok(Self(seed))
    }

    /// The error does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = "it is no private key: one line, 'ed25519-secret:' and 32 bytes in base64, as `switchyard plugin keygen` writes";
        decode(SECRET, text).map(Self).ok_or_else(|| wrong.to_owned())
    }

    /// What [`Self::parse`] reads.
    pub fn reveal(&self) -> String {
        format!("{SECRET}{}", BASE64_STANDARD.encode(self.0))
    }

    pub fn public(&self) -> PublicKey {
        let public = self.pair().public_key().as_ref().try_into();
        PublicKey(public.expect("a public key has 32 bytes"))
    }

    pub fn sign(&self, bytes: &[u8]) -> String {
        format!("{ALGORITHM}{}", BASE64_STANDARD.encode(self.pair().sign(&digest(bytes))))
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("any 32 bytes are a seed")
    }
}

/// What is signed for a file.
fn digest(bytes: &[u8]) -> Vec<u8> {
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
        SecretKey([byte; KEY])
    }

    fn trust(keys: &[u8], require: bool) -> Trust {
        Trust { keys: keys.iter().map(|byte| secret(*byte).public()).collect(), require }
    }

    #[test]
    fn a_trusted_key_vouches_for_these_bytes_alone() {
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
                format!("{ALGORITHM}{}", BASE64_STANDARD.encode(bare))
            }),
        ] {
            let error = trust.verify("p", bytes, Some(&signature)).expect_err(what);
            assert!(error.starts_with("plugin 'p': its signature"), "{what}: {error}");
        }
    }

    #[test]
    fn what_is_not_signed_is_refused_only_where_that_is_asked_for() {
        assert_eq!(trust(&[1], false).verify("p", b"x", None), Ok(None));
        let error = trust(&[1], true).verify("p", b"x", None).unwrap_err();
        assert!(error.contains("plugin 'p' is not signed") && error.contains("X-Signature"), "{error}");
        assert_eq!(
            trust(&[], false).verify("p", b"x", Some("ed25519:anything")),
            Ok(None),
            "no key, no meaning"
        );
    }

    #[test]
    fn a_version_of_a_key_that_is_gone_is_admitted_no_more() {
        let by = secret(1).public().to_string();
        assert_eq!(trust(&[1], true).admit("p", Some(&by)), Ok(()));
        assert!(trust(&[2], false).admit("p", Some(&by)).unwrap_err().contains(&by));
        assert!(trust(&[1], true).admit("p", None).is_err());
        assert_eq!(trust(&[1], false).admit("p", None), Ok(()));
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_errors_repeat_no_secret() {
        let key = SecretKey::generate().unwrap();
        let again = SecretKey::parse(&format!("{}\n", key.reveal())).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::try_from(key.public().to_string()), Ok(key.public()));
        let secret = key.reveal();
        let in_the_wrong_place = PublicKey::try_from(secret.clone()).unwrap_err();
        let cut = SecretKey::parse(&secret[..40]).err().unwrap();
        for error in [in_the_wrong_place, cut] {
            assert!(!error.contains(&secret["ed25519-secret:".len()..30]), "{error}");
        }
    }

    /// RFC 8032, section 7.1, test 1: the seed and its public key.
    #[test]
    fn it_is_the_ed25519_that_others_have() {
        let bytes = |hex: &str| -> [u8; KEY] {
            std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
        };
        let seed = bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(SecretKey(seed).public(), PublicKey(public));
    }
}
