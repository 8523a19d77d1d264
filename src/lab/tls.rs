//! Certificates for 127.0.0.1 and localhost, from an authority that lives as long as this value.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Doing, Result};

#[derive(Clone)]
pub struct Certificates {
    /// The authority, for clients.
    pub ca_pem: String,
    /// The server's certificate.
    pub chain_pem: String,
    /// The server's key.
    pub key_pem: String,
}

impl Certificates {
    pub fn new() -> Result<Self> {
        let doing = || "cannot make a certificate".to_owned();
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "Lockstep laboratory");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate().doing(doing)?;
        let ca_pem = ca.self_signed(&ca_key).doing(doing)?.pem();
        let mut server = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).doing(doing)?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        let key = KeyPair::generate().doing(doing)?;
        let chain_pem = server.signed_by(&key, &Issuer::new(ca, ca_key)).doing(doing)?.pem();
        Ok(Self { ca_pem, chain_pem, key_pem: key.serialize_pem() })
    }

    pub(super) fn server(&self) -> Result<Arc<ServerConfig>> {
        let doing = || "cannot serve TLS".to_owned();
        let chain = CertificateDer::from_pem_slice(self.chain_pem.as_bytes()).doing(doing)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).doing(doing)?;
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .doing(doing)?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .doing(doing)?;
        Ok(Arc::new(config))
    }
}
