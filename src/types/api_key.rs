//! A Supabase API key: which kind it is, what it allows, and how it travels. Told apart here, once, so that a key of
//! the wrong kind is refused before the first request and not by a puzzling 401 or an empty answer.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A key that may write past row level security. Its text never shows: `Debug` prints only the kind.
#[derive(Clone, Debug)]
pub struct ApiKey {
    kind: ApiKeyKind,
    text: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyKind {
    /// `sb_secret_…`: opaque. Supabase's gateway takes it in `apikey` and refuses it as a bearer token.
    Secret,
    /// The legacy `service_role` JWT: in `apikey` for the gateway, and as the bearer token for PostgREST.
    ServiceJwt { expires: Option<Timestamp> },
}

impl ApiKey {
    /// Reads a key, or says in one line why it will not do and where the right one is to be found.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let text = text.trim();
        let kind = kind(text, now)?;
        Ok(Self { kind, text: text.into() })
    }

    pub fn kind(&self) -> ApiKeyKind {
        self.kind
    }

    /// The value of the `apikey` header; every request carries it.
    pub fn apikey(&self) -> &str {
        self.text.expose_secret()
    }

    /// The value of the `Authorization` header, for the kind that needs one.
    pub fn authorization(&self) -> Option<SecretString> {
        match self.kind {
            ApiKeyKind::Secret => None,
            ApiKeyKind::ServiceJwt { .. } => Some(format!("Bearer {}", self.apikey()).into()),
        }
    }
}

const WHERE: &str = "take a secret key (sb_secret_…) from the project's dashboard: Project Settings > API Keys";

#[derive(Deserialize)]
struct Claims {
    role: Option<String>,
    exp: Option<i64>,
}

fn kind(text: &str, now: Timestamp) -> Result<ApiKeyKind, String> {
    if text.is_empty() {
        return Err(format!("it is empty; {WHERE}"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("it holds characters that no key has (a line break, a space, a quote?); {WHERE}"));
    }
    if text.starts_with("sb_secret_") {
        return Ok(ApiKeyKind::Secret);
    }
    if text.starts_with("sb_publishable_") {
        return Err(format!("this is a publishable key, which may not write past row level security; {WHERE}"));
    }
    if text.starts_with("sbp_") {
        return Err(format!("this is a personal access token of the management API, not a project's key; {WHERE}"));
    }
    // Only the project can check the signature, and does; we read what the key says about itself.
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(text)
        .map_err(|_| format!("this is neither a secret key (sb_secret_…) nor a service_role JWT (eyJ…); {WHERE}"))?;
    match claims.role.as_deref() {
        Some("service_role") => {}
        Some(role @ ("anon" | "authenticated")) => {
            return Err(format!("this is the `{role}` key, which may not write past row level security; {WHERE}"));
        }
        Some(role) => return Err(format!("this JWT is for role `{role}`, and service_role is needed; {WHERE}")),
        None => return Err(format!("this JWT names no role, and service_role is needed; {WHERE}")),
    }
    let expires = claims.exp.and_then(|seconds| Timestamp::from_second(seconds).ok());
    match expires {
        Some(at) if at <= now => Err(format!("this service_role key expired at {at}; {WHERE}")),
        expires => Ok(ApiKeyKind::ServiceJwt { expires }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"alg":"HS256","typ":"JWT"}` and the claims, unsigned: nobody checks the signature here.
    fn jwt(claims: &str) -> String {
        format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{}.c2ln", base64url(claims.as_bytes()))
    }

    fn base64url(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        bytes
            .chunks(3)
            .flat_map(|three| {
                let word =
                    three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
                (0..=three.len()).map(move |digit| DIGITS[(word >> (18 - 6 * digit) & 63) as usize] as char)
            })
            .collect()
    }

    fn refusal(text: &str) -> String {
        ApiKey::parse(text, Timestamp::from_second(2_000).unwrap()).unwrap_err()
    }

    #[test]
    fn a_secret_key_travels_in_apikey_only_and_a_service_jwt_as_the_bearer_too() {
        let now = Timestamp::from_second(2_000).unwrap();
        let secret = ApiKey::parse(" sb_secret_abc\n", now).unwrap();
        assert_eq!((secret.kind(), secret.apikey()), (ApiKeyKind::Secret, "sb_secret_abc"));
        assert!(secret.authorization().is_none());

        let text = jwt(r#"{"role":"service_role","exp":3000}"#);
        let legacy = ApiKey::parse(&text, now).unwrap();
        assert_eq!(legacy.kind(), ApiKeyKind::ServiceJwt { expires: Timestamp::from_second(3_000).ok() });
        assert_eq!(legacy.authorization().unwrap().expose_secret(), format!("Bearer {text}"));
    }

    #[test]
    fn a_key_of_the_wrong_kind_is_named_and_the_place_of_the_right_one_told() {
        for (text, word) in [
            ("sb_publishable_abc".into(), "publishable"),
            ("sbp_0123".into(), "personal access token"),
            (jwt(r#"{"role":"anon"}"#), "`anon`"),
            (jwt(r#"{"role":"authenticated"}"#), "`authenticated`"),
            (jwt(r#"{"role":"reporting"}"#), "`reporting`"),
            (jwt(r#"{"iss":"supabase"}"#), "names no role"),
            (jwt(r#"{"role":"service_role","exp":1999}"#), "expired at 1970-01-01T00:33:19Z"),
            ("hunter2".into(), "neither"),
            ("a.b.c".into(), "neither"),
            ("sb_secret_a\nb".into(), "line break"),
            (String::new(), "empty"),
        ] {
            let message = refusal(&text);
            assert!(message.contains(word) && message.contains("API Keys"), "{text}: {message}");
            assert!(text.len() < 8 || !message.contains(&text), "the message shows the key: {message}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn debug_never_shows_a_key() {
        let key = ApiKey::parse("sb_secret_hush", Timestamp::UNIX_EPOCH).unwrap();
        assert!(!format!("{key:?}").contains("hush"));
    }
}
