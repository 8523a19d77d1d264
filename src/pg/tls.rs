//! TLS to Postgres, with libpq's meaning of `sslmode`: prefer and require encrypt without asking who is there,
//! verify-ca checks who signed the certificate, verify-full its name too.
//!
//! rustls refuses some certificates that libpq takes: version 1, and a self-signed one that says it is an authority
//! (what `openssl req -x509` makes). The second kind is taken if it is, byte for byte, in the `sslrootcert` file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::url::{SslMode, SslRoot, Url};
use crate::types::Fault;

/// How to speak TLS with this server.
pub fn config(url: &Url) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(ring::default_provider());
    let trust = match url.ssl_mode {
        SslMode::VerifyCa => Trust::Roots { certificates: roots(&url.ssl_root)?, name: false },
        SslMode::VerifyFull => Trust::Roots { certificates: roots(&url.ssl_root)?, name: true },
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Trust::Anybody,
    };
    let verifier = Verifier::new(trust, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Fault::stop(format!("TLS cannot be set up: {e}"), "report this as a bug"))?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// What a failed handshake means, if `error` is one.
pub fn fault(url: &Url, error: &io::Error) -> Option<Fault> {
    let rustls::Error::InvalidCertificate(refused) = find(error)? else {
        return Some(Fault::retry(format!("the TLS handshake with {} failed: {error}", url.address())));
    };
    let root = match &url.ssl_root {
        SslRoot::System => "the system's certificate authorities".to_string(),
        SslRoot::File(path) => format!("the authorities in {}", path.display()),
    };
    let (why, fix) = match refused {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            format!("it was not signed by {root}"),
            "put the certificate of the authority that signed it into a file and name it: sslrootcert=FILE",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            refused.to_string(),
            "use a name from the certificate in the URL, or sslmode=verify-ca if the authority signs for nobody else",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (refused.to_string(), "renew the server's certificate")
        }
        // What libpq would take and rustls does not.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => (
            "it is an authority's own certificate, used as the server's".to_string(),
            "name the file that holds exactly this certificate, which then is trusted as it is: sslrootcert=FILE",
        ),
        other if format!("{other:?}").contains("UnsupportedCertVersion") => (
            "it is of X.509 version 1, which cannot be verified".to_string(),
            "issue it anew as version 3 (openssl x509 -req … -extfile with subjectAltName), or use sslmode=require",
        ),
        other => (other.to_string(), "replace the server's certificate, or use sslmode=require to connect unverified"),
    };
    Some(Fault::stop(format!("the certificate of {} was refused: {why}", url.address()), fix))
}

/// The TLS error inside an I/O error: `io::Error::source` skips it, so it has to be dug out.
fn find(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner
        .downcast_ref::<rustls::Error>()
        .or_else(|| find(inner.downcast_ref::<io::Error>()?))
        .or_else(|| inner.source()?.downcast_ref::<rustls::Error>())
}

fn roots(root: &SslRoot) -> Result<Vec<CertificateDer<'static>>, Fault> {
    match root {
        SslRoot::File(path) => read(path),
        SslRoot::System => match rustls_native_certs::load_native_certs() {
            found if !found.certs.is_empty() => Ok(found.certs),
            found => Err(Fault::stop(
                format!("this machine has no certificate authorities{}", first(&found.errors)),
                "install them (Debian: apt install ca-certificates) or name a file: sslrootcert=FILE",
            )),
        },
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let fix = "name a readable PEM file with at least one certificate in sslrootcert, or sslrootcert=system";
    let refuse = |why: String| Fault::stop(format!("sslrootcert {} cannot be used: {why}", path.display()), fix);
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(refuse("it holds no certificate".into())),
        Err(error) => Err(refuse(error.to_string())),
    }
}

fn first(errors: &[rustls_native_certs::Error]) -> String {
    errors.first().map(|error| format!(" ({error})")).unwrap_or_default()
}

/// Whose certificate is good enough.
enum Trust {
    Anybody,
    Roots { certificates: Vec<CertificateDer<'static>>, name: bool },
}

#[derive(Debug)]
struct Verifier {
    /// None: anybody.
    roots: Option<RootCertStore>,
    /// Certificates that are trusted as they are, should the server show exactly one of these.
    pinned: Vec<CertificateDer<'static>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Self, Fault> {
        let Trust::Roots { certificates, name } = trust else {
            return Ok(Self { roots: None, pinned: Vec::new(), name: false, provider });
        };
        let mut roots = RootCertStore::empty();
        let (good, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if good == 0 {
            return Err(Fault::stop(
                "no certificate authority can be read from sslrootcert",
                "name a PEM file that holds the authority's certificate: sslrootcert=FILE",
            ));
        }
        Ok(Self { roots: Some(roots), pinned: certificates, name, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        if self.name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.roots {
            // Proof that a stranger holds the stranger's key proves nothing, and a version 1 certificate would fail it.
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.roots {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
