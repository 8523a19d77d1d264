//! The address of a database on the command line. It is read only after the command line was: a parser of arguments
//! repeats what it refuses, and here that holds a password.

use std::convert::Infallible;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use crate::config::Problem;
use crate::pg::Url;

#[derive(Clone)]
pub(super) struct Address(SecretString);

impl FromStr for Address {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl Address {
    /// Reads it; `flag` says where it was written.
    pub(super) fn read(&self, flag: &str) -> Result<Url, Problem> {
        Url::parse(self.0.expose_secret()).map_err(|cause| Problem::new(flag, cause))
    }
}

/// What clap says of a command line it does not understand, less the addresses in it: `lockstep setup postgres://…`.
pub(super) fn without_addresses(message: &str, arguments: impl Iterator<Item = String>) -> String {
    arguments.filter(|argument| argument.contains("://")).fold(message.to_owned(), |message, argument| {
        let value = argument.split_once('=').filter(|(flag, _)| flag.starts_with('-')).map_or("", |(_, value)| value);
        let message = message.replace(&argument, "<address>");
        if value.is_empty() { message } else { message.replace(value, "<address>") }
    })
}
