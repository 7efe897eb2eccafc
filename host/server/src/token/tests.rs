//! Tokens as issuers and forgers make them, and key sets that change, fail and come late.

use super::{jws::Algorithm, *};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Something that signs.
enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Secret(hmac::Key),
}

impl Signer {
    fn ed25519(seed: u8) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn p256() -> Self {
        let (algorithm, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Self::P256(pair) => pair.public_key().as_ref().to_vec(),
            Self::Secret(_) => panic!("it has no public key"),
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let public = self.public();
        match self {
            Self::Ed25519(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64(public)}),
            Self::P256(_) => {
                let (x, y) = (base64(&public[1..33]), base64(&public[33..]));
                json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y})
            }
            Self::Secret(_) => panic!("it has no public key"),
        }
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
            Self::P256(pair) => pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Secret(key) => hmac::sign(key, text.as_bytes()).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = base64(self.sign(&signed));
        format!("{signed}.{signature}")
    }
}

fn claims() -> Value {
    let now = unix_ms() / 1000;
    json!({"iss": "https://auth.example.org", "aud": "switchyard", "sub": "ann", "iat": now, "exp": now + 600})
}

fn config(more: &str) -> Arc<IssuerConfig> {
    let text =
        format!("name = \"app\"\nissuer = \"https://auth.example.org\"\naudience = \"switchyard\"\n{more}");
    let config: IssuerConfig = toml::from_str(&text).unwrap();
    assert_eq!(config.find_error(), None, "{more}");
    Arc::new(config)
}

/// A verifier of tokens that are signed with these keys.
fn verifier(folder: &Path, algorithms: &str, keys: &[Value]) -> TokenVerifier {
    let file = folder.join("jwks.json");
    std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    let verifier = TokenVerifier::default();
    verifier.set_issuers(&[config(&format!("keys = \"{}\"\nalgorithms = {algorithms}", file.display()))]);
    verifier
}

async fn refusal(verifier: &TokenVerifier, token: &str) -> Refusal {
    let refusal = verifier.verify(token).await.expect_err("a refusal");
    assert!(!refusal.message.contains(token.rsplit('.').next().filter(|s| !s.is_empty()).unwrap_or("eyJ")));
    refusal
}

#[tokio::test]
async fn each_algorithm_is_verified_and_forgeries_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ed, ec, other) = (Signer::ed25519(1), Signer::p256(), Signer::ed25519(2));
    let keys =
        [ed.jwk("ed"), ec.jwk("ec"), json!({"kty": "oct", "kid": "oct", "k": base64("secret")}), json!(7)];
    let verifier = verifier(folder.path(), r#"["EdDSA", "ES256"]"#, &keys);
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid, "typ": "JWT"});
    for (signer, alg, kid) in [(&ed, "EdDSA", "ed"), (&ec, "ES256", "ec")] {
        let verified = verifier.verify(&signer.token(&header(alg, kid), &claims())).await.unwrap();
        assert_eq!((&*verified.principal, &*verified.issuer.name), ("ann", "app"));
    }
    // The only key of its algorithm need not be named.
    assert!(verifier.verify(&ed.token(&json!({"alg": "EdDSA"}), &claims())).await.is_ok());
    // The header names another key; what it says of keys is ignored.
    let own = json!({"alg": "EdDSA", "kid": "ed", "jwk": other.jwk("ed"), "jku": "http://127.0.0.1:1/"});
    let public_as_secret = Signer::Secret(hmac::Key::new(hmac::HMAC_SHA256, &ed.public()));
    let signed = ed.token(&header("EdDSA", "ed"), &claims());
    let (start, _) = signed.rsplit_once('.').unwrap();
    let mut changed = claims();
    changed["sub"] = json!("bob");
    let payload = base64(changed.to_string());
    let mixed = signed.split('.').enumerate().map(|(n, part)| if n == 1 { &*payload } else { part });
    for (token, expected) in [
        (other.token(&own, &claims()), "signature does not match"),
        (public_as_secret.token(&header("HS256", "ed"), &claims()), "algorithm 'HS256' is not allowed"),
        (public_as_secret.token(&header("EdDSA", "ed"), &claims()), "signature does not match"),
        (
            format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(claims().to_string())),
            "'none' is not allowed",
        ),
        (ed.token(&header("eddsa", "ed"), &claims()), "'eddsa' is not allowed"),
        (ed.token(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["b64"]}), &claims()), "'crit'"),
        (mixed.collect::<Vec<_>>().join("."), "signature does not match"),
        (format!("{start}.{}", base64([0; 64])), "signature does not match"),
        (format!("{start}."), "signature does not match"),
        (format!("{signed}="), "not a signed JSON Web Token"),
        (format!("{signed}.x"), "not a signed JSON Web Token"),
        (format!("{}.e30.e30", base64("{}")), "header"),
        ("x".repeat(MAX_TOKEN_BYTES + 1), "at most 8192"),
    ] {
        let refusal = refusal(&verifier, &token).await;
        assert!(refusal.message.contains(expected), "{expected}: {}", refusal.message);
        assert_eq!(refusal.code, ErrorCode::InvalidToken, "{expected}");
    }
    // The file was read a moment ago, and may have the key by now.
    let unknown = refusal(&verifier, &ed.token(&header("EdDSA", "ec"), &claims())).await;
    assert_eq!(unknown.code, ErrorCode::IssuerUnavailable, "{}", unknown.message);
    let mut wrong = claims();
    wrong["iss"] = json!("https://other.example.org");
    let refused = refusal(&verifier, &ed.token(&header("EdDSA", "ed"), &wrong)).await;
    assert!(refused.message.contains("issuer (iss) 'https://other.example.org'"), "{}", refused.message);
    let none = TokenVerifier::default();
    assert!(refusal(&none, &signed).await.message.contains("no user tokens"));
}

/// Another implementation has signed the token.
#[test]
fn rs256_is_verified() {
    const N: &str = "y0-s629pDhO3s2xjVX7y6wBlr7sG8unmv7RoIDNYCuv1DN7wRxSyMfQQwHyBYtB1WSdsWHcCr-g7l_r4lS20Tl7Z6YONfx25\
                     FC90BnnhiqakBqWq08Z84xxCuzRoEsnTQYYWn7bXR_frrCllzJ2YBXDSIrZtbkrw6GlBIicrEXAsk5HT0RJlN9Z7_O5xlz6n\
                     vVX5OLGPD9w8NAFJUW-g2uC5CPORfakd7Nb1xQ4f2A8l3ewvWe4Zob2dDNfgBfkX65JSkKOfZW0IYr3k5mfRmii2pxHTZMmd\
                     _zc03X5DeoO86TiWWR5GUSIxfXkTNm6yBEApDvnNLWDIduVzjJ8c3Q";
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLCJpc19yb290Ijp0cnVlfQ.vBPeB5Wtu-2ohziF79pfKq0QNk1uUqDC\
                         D9Ikj8WL1siMCHdglReHcAiT2FqgX5jJZXyBh1kqrUFAhyAhWU2KyY_7ad8AkEAjBVXrztR7NnK9kbEw9QktQ-ucScJC\
                         lQ63dNPwbANaplmJR1roKfWJRf5Yao5filcOxovZe2v02zCEakrsAjzh3dWl7rTEsswUSs-kjDTiv9sn60uBUw_7jCLm\
                         dJDiSpPColqpyAJk-22wfmH1ZRp3kCJWUWLksZHpJCOmFKCSJaV0I1dhBssWvy03eenqZZs5Z9VRZZayAD8_VQpPxnPZ\
                         Dqg29q481oAEHH7fM2Z_0N_-A7amKHC8ww";
    let set = json!({"keys": [{"kty": "RSA", "n": N, "e": "AQAB"}]}).to_string();
    let set = jwk::KeySet::parse(set.as_bytes(), &[Algorithm::RS256]).unwrap();
    let key = set.find(None, Algorithm::RS256).unwrap();
    assert!(Jws::parse(TOKEN).unwrap().verify(&key).is_ok());
    let changed =
        TOKEN.replace("eyJpc3MiOiJqb2UiLCJpc19yb290Ijp0cnVlfQ", "eyJpc3MiOiJqaW0iLCJpc19yb290Ijp0cnVlfQ");
    assert_ne!(changed, TOKEN);
    assert!(Jws::parse(&changed).unwrap().verify(&key).is_err());
}

#[tokio::test]
async fn a_secret_verifies_hs256_and_a_short_one_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{}\n", "s".repeat(32))).unwrap();
    let verifier = TokenVerifier::default();
    let issuer = config(&format!("secret_file = \"{}\"\nalgorithms = [\"HS256\"]", file.display()));
    verifier.set_issuers(std::slice::from_ref(&issuer));
    let signer = Signer::Secret(hmac::Key::new(hmac::HMAC_SHA256, &[b's'; 32]));
    let token = signer.token(&json!({"alg": "HS256", "kid": "any"}), &claims());
    assert!(verifier.verify(&token).await.is_ok());
    let wrong = Signer::Secret(hmac::Key::new(hmac::HMAC_SHA256, &[b'x'; 32]));
    let refused = refusal(&verifier, &wrong.token(&json!({"alg": "HS256"}), &claims())).await;
    assert!(refused.message.contains("signature"), "{}", refused.message);

    std::fs::write(&file, "short").unwrap();
    let other = TokenVerifier::default();
    other.set_issuers(&[issuer]);
    let refused = refusal(&other, &token).await;
    assert_eq!(refused.code, ErrorCode::IssuerUnavailable);
    assert!(refused.retry_after.is_some());
    assert!(other.problems()[0].contains("has 5 bytes"), "{:?}", other.problems());
    other.set_issuers(&[]);
    assert!(other.problems().is_empty());
}

#[tokio::test]
async fn keys_in_a_file_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::ed25519(1), Signer::ed25519(2));
    let verifier = verifier(folder.path(), r#"["EdDSA"]"#, &[old.jwk("old")]);
    let token = |signer: &Signer, kid: &str| signer.token(&json!({"alg": "EdDSA", "kid": kid}), &claims());
    assert!(verifier.verify(&token(&old, "old")).await.is_ok());
    std::fs::write(folder.path().join("jwks.json"), json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    let accepted = async {
        while let Err(refusal) = verifier.verify(&token(&new, "new")).await {
            let wait = refusal.retry_after.expect("no verdict before the file is read again");
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), accepted).await.expect("the new key");
    assert!(verifier.verify(&token(&old, "old")).await.is_err(), "it is not in the file any more");
}

#[test]
fn a_key_set_may_have_keys_that_nobody_here_can_use() {
    let (ed, algorithms) = (Signer::ed25519(1), [Algorithm::EdDSA]);
    let set = |keys: Value| jwk::KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), &algorithms);
    let mut encrypts = ed.jwk("a");
    encrypts["use"] = json!("enc");
    let keys = json!([{"kty": "new"}, 7, null, encrypts, Signer::p256().jwk("b"), ed.jwk("c")]);
    let found = set(keys).unwrap();
    assert!(found.find(Some("c"), Algorithm::EdDSA).is_ok());
    for (id, algorithm) in [("a", Algorithm::EdDSA), ("b", Algorithm::ES256), ("c", Algorithm::RS256)] {
        assert_eq!(found.find(Some(id), algorithm).unwrap_err(), MissingKey::Unknown, "{id}");
    }
    let two = set(json!([ed.jwk("a"), Signer::ed25519(2).jwk("b")])).unwrap();
    assert_eq!(two.find(None, Algorithm::EdDSA).unwrap_err(), MissingKey::Ambiguous);
    assert!(set(json!([Signer::p256().jwk("b")])).unwrap().problem().is_some());
    for text in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
        assert!(jwk::KeySet::parse(text.as_bytes(), &algorithms).is_err(), "{text}");
    }
}
