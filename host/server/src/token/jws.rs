//! The signature of a token: JSON Web Signatures (RFC 7515) in their compact form. Splits them and verifies them with a
//! key. Does not look at claims, and ignores everything in a header that names a key to use other than its id.

use super::{
    invalid,
    jwk::{KeyMaterial, VerifyingKey},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{hmac, signature};
use serde::{Deserialize, de::IgnoredAny};
use std::fmt;
use switchyard_protocol::Refusal;

/// How a token may be signed. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// RSA (PKCS #1 v1.5) with SHA-256, and at least 2048 bits.
    RS256,
    /// HMAC with SHA-256: the server has the secret with which tokens are signed.
    HS256,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::EdDSA, Self::ES256, Self::RS256, Self::HS256];

    /// The algorithm as the header of a token names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDSA => "EdDSA",
            Self::ES256 => "ES256",
            Self::RS256 => "RS256",
            Self::HS256 => "HS256",
        }
    }

    /// The algorithm with this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The part of a header that matters. `jku`, `jwk`, `x5u` and the like are ignored: keys come from the configuration
/// alone.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that a server must understand. This one understands none.
    crit: Option<IgnoredAny>,
}

/// A token, taken apart. Nothing in it is trustworthy before [`Jws::verify`].
pub(super) struct Jws<'a> {
    header: Header,
    /// The header and the payload, as they were signed.
    signed: &'a str,
    pub payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, Refusal> {
        let malformed =
            || invalid("it is not a signed JSON Web Token: three parts in Base64, joined by dots");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| invalid("its header is not a JSON object with the string alg"))?;
        if header.crit.is_some() {
            return Err(invalid("its header has 'crit', and this server knows none of these extensions"));
        }
        Ok(Self { header, signed, payload: decode(payload)?, signature: decode(signature)? })
    }

    /// The id of the key that signed it, if it names one.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The algorithm, if it is allowed.
    pub(super) fn algorithm(&self, allowed: &[Algorithm]) -> Result<Algorithm, Refusal> {
        let named = Algorithm::of(&self.header.alg).filter(|algorithm| allowed.contains(algorithm));
        named.ok_or_else(|| {
            let allowed: Vec<_> = allowed.iter().map(|algorithm| algorithm.as_str()).collect();
            let alg = super::claims::shown(&self.header.alg);
            invalid(format_args!(
                "its algorithm '{alg}' is not allowed; its issuer signs with {}",
                allowed.join(", ")
            ))
        })
    }

    /// Checks the signature with a key, whose algorithm must be the one of the header.
    pub(super) fn verify(&self, key: &VerifyingKey) -> Result<(), Refusal> {
        let (signed, signature) = (self.signed.as_bytes(), &self.signature);
        let with = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(signed, signature)
        };
        let verified = match &key.material {
            KeyMaterial::Ed25519(public) => with(&signature::ED25519, public),
            KeyMaterial::P256(public) => with(&signature::ECDSA_P256_SHA256_FIXED, public),
            KeyMaterial::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                signed,
                signature,
            ),
            KeyMaterial::Secret(secret) => hmac::verify(secret, signed, signature),
        };
        verified.map_err(|_| invalid("its signature does not match"))
    }
}
