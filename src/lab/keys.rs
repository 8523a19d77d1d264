//! The keys of a Supabase project, of both kinds, and what its gateway says of a request that carries them.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::place::random_hex;
use super::{Doing, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Anon,
    Service,
}

/// A project's secret and its keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keys {
    pub jwt_secret: String,
    /// Legacy, a JWT.
    pub anon: String,
    /// Legacy, a JWT.
    pub service: String,
    /// `sb_publishable_…`
    pub publishable: String,
    /// `sb_secret_…`
    pub secret: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    #[serde(rename = "ref")]
    project: &'a str,
    role: &'a str,
    iat: u64,
    exp: u64,
}

impl Keys {
    /// New ones for a new project.
    pub fn new() -> Result<Self> {
        let (jwt_secret, project) = (random_hex(32), random_hex(10));
        let token = |role| {
            // Like Supabase's own, they are good for ten years.
            let claims = Claims { iss: "supabase", project: &project, role, iat: 1_767_225_600, exp: 2_082_758_400 };
            let key = EncodingKey::from_secret(jwt_secret.as_bytes());
            jsonwebtoken::encode(&Header::default(), &claims, &key).doing(|| format!("cannot make the {role} key"))
        };
        let (anon, service) = (token("anon")?, token("service_role")?);
        let sb = |kind| format!("sb_{kind}_{}_{}", random_hex(11), random_hex(4));
        Ok(Self { anon, service, publishable: sb("publishable"), secret: sb("secret"), jwt_secret })
    }

    /// What goes upstream as `Authorization`, or the answer that the gateway gives itself.
    pub(super) fn authorize(&self, headers: &HeaderMap, query: Option<&str>) -> Result<HeaderValue, Refusal> {
        let from_query = query.and_then(|query| {
            url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "apikey").map(|(_, key)| key)
        });
        let key = match (headers.get("apikey"), &from_query) {
            (Some(key), _) => key.to_str().map_err(|_| Refusal::Invalid)?,
            (None, Some(key)) => key,
            (None, None) => return Err(Refusal::Missing),
        };
        let (role, legacy) = self.role(key).ok_or(Refusal::Invalid)?;
        let jwt = match role {
            Role::Anon => &self.anon,
            Role::Service => &self.service,
        };
        let given = headers.get(AUTHORIZATION);
        let given_key = given.and_then(|given| given.to_str().ok()?.strip_prefix("Bearer "));
        match (given, given_key) {
            // A key of the new kind is no token. Repeating the very same one is let through, and PostgREST refuses it.
            (_, Some(bearer)) if bearer.starts_with("sb_") && (legacy || bearer != key) => Err(Refusal::Invalid),
            (Some(given), _) => Ok(given.clone()),
            (None, _) => HeaderValue::from_str(&format!("Bearer {jwt}")).map_err(|_| Refusal::Invalid),
        }
    }

    /// Whose key it is, and whether it is one of the legacy kind.
    fn role(&self, key: &str) -> Option<(Role, bool)> {
        match key {
            _ if key == self.secret => Some((Role::Service, false)),
            _ if key == self.publishable => Some((Role::Anon, false)),
            _ if key == self.service => Some((Role::Service, true)),
            _ if key == self.anon => Some((Role::Anon, true)),
            _ => None,
        }
    }
}

/// Why the gateway answers 401 itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing,
    Invalid,
}

impl Refusal {
    pub(super) fn body(self) -> &'static str {
        match self {
            Self::Missing => {
                r#"{"message":"No API key found in request","hint":"No `apikey` request header or url param was found."}"#
            }
            Self::Invalid => {
                r#"{"message":"Invalid API key","hint":"Double check your Supabase `anon` or `service_role` API key."}"#
            }
        }
    }
}
