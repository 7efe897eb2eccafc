//! The keys of an issuer: JSON Web Key Sets (RFC 7517), or the secret of HS256. Fetches nothing.

use super::jws::Algorithm;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Maximum size of a key set, in bytes.
pub(super) const MAX_KEY_SET_BYTES: usize = 1 << 20;
/// Maximum number of keys that are kept of a set: the time for finding one is proportional to it.
const MAX_KEYS: usize = 100;
/// The shortest secret for HS256, in bytes: as long as the hash.
const MIN_SECRET_BYTES: usize = 32;

/// The smallest modulus of an RSA key, in bytes: 2048 bits.
const MIN_RSA_BYTES: usize = 256;

/// A key that verifies signatures.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub material: KeyMaterial,
}

#[derive(Debug)]
pub(super) enum KeyMaterial {
    Ed25519(Vec<u8>),
    /// An uncompressed point.
    P256(Vec<u8>),
    /// Without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Secret(hmac::Key),
}

/// All keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Arc<VerifyingKey>>);

/// Why a text is not a key set that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidKeySet {
    #[error("it is not a JSON Web Key Set: expected a JSON object such as {{\"keys\":[…]}}")]
    Syntax,
    #[error("the secret has {0} bytes; HS256 needs at least {MIN_SECRET_BYTES}")]
    ShortSecret(usize),
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MissingKey {
    /// There is none with this id.
    Unknown,
    /// The token names no key, and several could have signed it.
    Ambiguous,
}

impl KeySet {
    /// Reads a set. Keys that cannot verify a token of these algorithms are left out: the set may also serve others.
    pub(super) fn parse(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, InvalidKeySet> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|_| InvalidKeySet::Syntax)?;
        let usable = |key: &&RawValue| {
            let key = serde_json::from_str::<Jwk>(key.get()).ok()?.verifying_key()?;
            algorithms.contains(&key.algorithm).then(|| Arc::new(key))
        };
        Ok(Self(set.keys.iter().filter_map(usable).take(MAX_KEYS).collect()))
    }

    /// Why it is of no use.
    pub(super) fn problem(&self) -> Option<String> {
        self.0.is_empty().then(|| "no key in the set fits issuer.algorithms".to_owned())
    }

    /// The one key of an issuer that signs with a secret. A line break at its end does not count.
    pub(super) fn of_secret(text: &[u8]) -> Result<Self, InvalidKeySet> {
        let secret = text.strip_suffix(b"\n").unwrap_or(text);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < MIN_SECRET_BYTES {
            return Err(InvalidKeySet::ShortSecret(secret.len()));
        }
        let material = KeyMaterial::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Ok(Self(vec![Arc::new(VerifyingKey { id: None, algorithm: Algorithm::HS256, material })]))
    }

    /// The key that a token names. A token that names none needs an issuer that has only one, and a secret has no id.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<VerifyingKey>, MissingKey> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) if algorithm != Algorithm::HS256 => {
                fitting.find(|key| key.id.as_deref() == Some(id)).cloned().ok_or(MissingKey::Unknown)
            }
            _ => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(only.clone()),
                (None, _) => Err(MissingKey::Unknown),
                (Some(_), Some(_)) => Err(MissingKey::Ambiguous),
            },
        }
    }
}

/// A JSON Web Key, as far as it matters. Private parts are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    /// `None` if it is of another kind, for another purpose, or malformed.
    fn verifying_key(self) -> Option<VerifyingKey> {
        let decode = |part: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let (algorithm, material) = match (&*self.kty, self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let x = decode(&self.x).filter(|x| x.len() == 32)?;
                (Algorithm::EdDSA, KeyMaterial::Ed25519(x))
            }
            ("EC", Some("P-256")) => {
                let [x, y] = [&self.x, &self.y].map(|part| decode(part).filter(|part| part.len() == 32));
                (Algorithm::ES256, KeyMaterial::P256([vec![4], x?, y?].concat()))
            }
            ("RSA", _) => {
                let positive = |number: Vec<u8>| number.into_iter().skip_while(|byte| *byte == 0).collect();
                let (n, e): (Vec<u8>, Vec<u8>) = (positive(decode(&self.n)?), positive(decode(&self.e)?));
                if n.len() < MIN_RSA_BYTES {
                    return None;
                }
                (Algorithm::RS256, KeyMaterial::Rsa { n, e })
            }
            _ => return None,
        };
        let is_for_it = self.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
        let verifies = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        (is_for_it && verifies).then_some(VerifyingKey { id: self.kid, algorithm, material })
    }
}
