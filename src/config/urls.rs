//! The two addresses, read strictly: what people paste is often the neighbour of what is needed.

use std::fmt;

use url::{Host, Url};

use crate::pg;

/// Where the Supabase project answers: scheme, host and port, nothing else. The REST end is `rest/v1/` below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectUrl(Url);

impl ProjectUrl {
    /// Reads a project's address, or says in one line what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "it should look like https://PROJECT.supabase.co";
        let text = text.trim();
        let url = Url::parse(text).map_err(|error| format!("this is not an address ({error}); {SHAPE}"))?;
        match url.scheme() {
            "http" | "https" => {}
            "postgres" | "postgresql" => {
                return Err(format!("this is the address of a database, and the REST end is needed; {SHAPE}"));
            }
            scheme => return Err(format!("`{scheme}:` is not http(s); {SHAPE}")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("leave user and password off; the key goes into SUPABASE_KEY. {SHAPE}"));
        }
        if matches!(url.host_str(), Some("supabase.com" | "app.supabase.com" | "www.supabase.com")) {
            let project = url.path_segments().and_then(|mut parts| parts.find(|part| part.len() == 20));
            let project = project.unwrap_or("PROJECT");
            return Err(format!("this is the dashboard's page; the project answers at https://{project}.supabase.co"));
        }
        if url.path() != "/" {
            let right = url.origin().ascii_serialization();
            return Err(format!("leave the path `{}` off: {right}", url.path()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("leave off what follows `?` or `#`; {SHAPE}"));
        }
        Ok(Self(url))
    }

    /// The address with a trailing slash; join relative paths to it.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Whether a key sent there could be read on the way.
    pub fn is_exposed(&self) -> bool {
        let here = match self.0.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        };
        self.0.scheme() == "http" && !here
    }
}

impl fmt::Display for ProjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Checks a source's address as far as it can be checked without connecting. Never repeats it: it holds a password.
pub(super) fn check_source(text: &str) -> Result<(), String> {
    const SHAPE: &str = "it should look like postgres://user:password@host:5432/database";
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(format!("this is not an address; {SHAPE}"));
    };
    match scheme {
        "postgres" | "postgresql" => {}
        "http" | "https" => return Err(format!("this is a web address, and the database's is needed; {SHAPE}")),
        _ => return Err(format!("its scheme is not postgres:; {SHAPE}")),
    }
    pg::Url::parse(text).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_known_by_scheme_host_and_port() {
        assert_eq!(ProjectUrl::parse("https://abc.supabase.co/").unwrap().to_string(), "https://abc.supabase.co");
        assert_eq!(ProjectUrl::parse(" http://127.0.0.1:54321 ").unwrap().to_string(), "http://127.0.0.1:54321");
    }

    #[test]
    fn what_people_paste_instead_is_answered_with_what_to_do() {
        for (text, word) in [
            ("abc.supabase.co", "not an address"),
            ("ftp://abc.supabase.co", "not http(s)"),
            ("postgres://u:p@db.abc.supabase.co/postgres", "address of a database"),
            ("https://abc.supabase.co/rest/v1", "leave the path `/rest/v1` off: https://abc.supabase.co"),
            ("https://abc.supabase.co/rest/v1/", "leave the path"),
            ("https://abc.supabase.co/?apikey=x", "what follows `?`"),
            ("https://user:pw@abc.supabase.co", "leave user and password off"),
            ("https://supabase.com/dashboard/project/abcdefghijklmnopqrst", "https://abcdefghijklmnopqrst.supabase.co"),
        ] {
            let message = ProjectUrl::parse(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn a_key_is_exposed_by_plain_http_to_anywhere_but_this_host() {
        let exposed = |text| ProjectUrl::parse(text).unwrap().is_exposed();
        assert!(exposed("http://10.0.0.5:8000") && exposed("http://supabase.local"));
        assert!(!exposed("https://10.0.0.5") && !exposed("http://[::1]:54321") && !exposed("http://localhost:54321"));
    }

    #[test]
    fn a_source_that_is_no_database_is_refused_without_repeating_its_password() {
        assert_eq!(check_source("postgresql://u:p@h/d"), Ok(()));
        for (text, word) in [
            ("u:hush@h", "postgres://"),
            ("https://u:hush@h", "web address"),
            ("mysql://u:hush@h/d", "not postgres:"),
            ("host=h password=hush", "postgres://"),
            ("postgres://u:a?hush@h/d", "%3F"),
            ("postgres://u:a/hush@h/d?x", "%2F"),
            ("postgres://u:hush@h/d?sslmod=require", "sslmod"),
        ] {
            let message = check_source(text).unwrap_err();
            assert!(!message.contains("hush") && message.contains(word), "{text}: {message}");
        }
    }
}
