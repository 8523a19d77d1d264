//! Logs in on the replication protocol: start-up, password in every form Postgres asks for, until it is ready.

use std::io;

use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::ChannelBinding;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::client::{PINNED, login_fault, no_channel_binding, no_password};
use super::quote;
use super::url::Url;
use super::wire::Wire;
use crate::types::Fault;

/// Connects as a walsender's client, bounded in time.
pub(super) async fn login(url: &Url, application: &str) -> Result<Wire, Fault> {
    let attempt = async {
        let mut wire = Wire::open(url).await?;
        Login { wire: &mut wire, url }.run(application).await?;
        Ok(wire)
    };
    let limit = url.connect_timeout * 2; // as for SQL: the second half is for a server that accepts and says nothing
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(Fault::retry(format!("{} did not answer in time", url.address()))))
}

struct Login<'a> {
    wire: &'a mut Wire,
    url: &'a Url,
}

impl Login<'_> {
    async fn run(&mut self, application: &str) -> Result<(), Fault> {
        let application = self.url.application.as_deref().unwrap_or(application);
        let who = [("user", self.url.user.as_str()), ("database", &self.url.database)];
        let what = [("replication", "database"), ("application_name", application)];
        let parameters = who.into_iter().chain(what).chain(PINNED);
        frontend::startup_message(parameters, &mut self.wire.output).map_err(|e| self.lost(&e))?;
        self.flush().await?;
        self.authenticate().await?;
        loop {
            if let Message::ReadyForQuery(_) = self.message().await? {
                return Ok(());
            }
        }
    }

    async fn authenticate(&mut self) -> Result<(), Fault> {
        let required = self.url.channel_binding == ChannelBinding::Require;
        match self.message().await? {
            Message::AuthenticationSasl(body) => {
                let offered: Vec<String> =
                    body.mechanisms().map(|name| Ok(name.to_owned())).collect().map_err(|e| self.lost(&e))?;
                self.scram(&offered).await
            }
            _ if required => Err(no_channel_binding(self.url)),
            Message::AuthenticationOk => Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = self.password()?;
                self.answer(password.expose_secret().as_bytes()).await
            }
            Message::AuthenticationMd5Password(body) => {
                let password = self.password()?;
                let hash = md5_hash(self.url.user.as_bytes(), password.expose_secret().as_bytes(), body.salt());
                self.answer(hash.as_bytes()).await
            }
            _ => Err(Fault::stop(
                format!(
                    "{} asks for a way to log in that is not supported (GSSAPI, SSPI or Kerberos)",
                    self.url.address()
                ),
                format!("let user {} in with scram-sha-256 in pg_hba.conf", self.url.user),
            )),
        }
    }

    async fn answer(&mut self, password: &[u8]) -> Result<(), Fault> {
        frontend::password_message(password, &mut self.wire.output).map_err(|e| self.lost(&e))?;
        self.flush().await?;
        self.expect_ok().await
    }

    /// SCRAM, bound to the TLS connection when both sides can: then nobody in between can pass the login on.
    async fn scram(&mut self, offered: &[String]) -> Result<(), Fault> {
        let mode = self.url.channel_binding;
        let end_point = self.wire.end_point.clone().filter(|_| mode != ChannelBinding::Disable);
        let plus = offered.iter().any(|name| name == sasl::SCRAM_SHA_256_PLUS);
        let (mechanism, binding) = match (plus, end_point) {
            (true, Some(hash)) => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
            _ if mode == ChannelBinding::Require => return Err(no_channel_binding(self.url)),
            // "We could have": a server that did offer it then knows that somebody in between hid the offer.
            (false, Some(_)) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            (_, None) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if !offered.iter().any(|name| name == mechanism) {
            let offered = offered.join(", ");
            return Err(Fault::stop(
                format!("{} offers only these ways to log in: {offered}", self.url.address()),
                format!("let user {} in with scram-sha-256 in pg_hba.conf", self.url.user),
            ));
        }
        let password = self.password()?;
        let mut scram = sasl::ScramSha256::new(password.expose_secret().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.wire.output)
            .map_err(|e| self.lost(&e))?;
        self.flush().await?;
        let Message::AuthenticationSaslContinue(body) = self.message().await? else { return Err(self.odd()) };
        scram.update(body.data()).map_err(|e| self.lost(&e))?;
        frontend::sasl_response(scram.message(), &mut self.wire.output).map_err(|e| self.lost(&e))?;
        self.flush().await?;
        let Message::AuthenticationSaslFinal(body) = self.message().await? else { return Err(self.odd()) };
        // The server proves here that it knows the password too.
        scram.finish(body.data()).map_err(|e| self.lost(&e))?;
        self.expect_ok().await
    }

    async fn expect_ok(&mut self) -> Result<(), Fault> {
        match self.message().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.odd()),
        }
    }

    /// The next message that is not mere news; an error response is a fault.
    async fn message(&mut self) -> Result<Message, Fault> {
        loop {
            match self.wire.message().await.map_err(|e| self.lost(&e))? {
                Some(Message::ErrorResponse(body)) => {
                    let refused = Refused::read(body.fields());
                    return Err(self.refused(&refused));
                }
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Some(message) => return Ok(message),
                None => return Err(self.odd()),
            }
        }
    }

    fn refused(&self, refused: &Refused) -> Fault {
        let (at, user) = (self.url.address(), &self.url.user);
        match refused.code.as_str() {
            // The right to connect at all was shown by the SQL connection that comes before this one. The code, not
            // the text, decides: texts change with the version and the server's language.
            "42501" => Fault::stop(
                format!("{at} does not let user {user} replicate: {}", refused.message),
                format!("alter role {} replication", quote::ident(user)),
            ),
            code => login_fault(self.url, code, &refused.message),
        }
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        self.wire.flush().await.map_err(|e| self.lost(&e))
    }

    fn password(&self) -> Result<SecretString, Fault> {
        self.url.password.clone().ok_or_else(|| no_password(self.url))
    }

    fn lost(&self, error: &io::Error) -> Fault {
        Fault::retry(format!("logging in to {} failed: {error}", self.url.address()))
    }

    fn odd(&self) -> Fault {
        Fault::retry(format!("{} answered the login with an unexpected message", self.url.address()))
    }
}

/// An error response.
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Refused {
    pub(super) fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut refused = Self { code: "XX000".into(), message: "an error without a text".into(), hint: None };
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => refused.code = text(),
                b'M' => refused.message = text(),
                b'H' => refused.hint = Some(text()),
                _ => {}
            }
        }
        refused
    }
}
