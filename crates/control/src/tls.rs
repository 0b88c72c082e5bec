//! TLS 1.3 with raw public keys (RFC 7250) on both sides: ML-DSA-87 identities, X25519MLKEM768 key
//! exchange, AES-256 or ChaCha20, and nothing else. Used over TCP (port 9000) and inside QUIC (port
//! 9001).
//!
//! The rule: there is no fallback. A peer that offers only classical key exchange, a certificate,
//! another signature algorithm or a session ticket does not get a connection; every connection
//! proves possession anew.

use crate::keys::{KeyError, SecretKey};
use cretoai_types::PublicKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{cipher_suite, default_provider, kx_group},
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use std::{fmt, sync::Arc};

/// The bytes before the 2,592 bytes of the key in the DER of an ML-DSA-87 SubjectPublicKeyInfo (RFC
/// 9881): SEQUENCE { SEQUENCE { OID 2.16.840.1.101.3.4.3.19 }, BIT STRING }.
const SPKI_HEAD: [u8; 22] = [
    0x30, 0x82, 0x0a, 0x32, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03,
    0x13, 0x03, 0x82, 0x0a, 0x21, 0x00,
];

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key cannot be given to rustls.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// rustls refused.
    #[error("TLS set-up: {0}")]
    Rustls(#[from] Error),
}

/// Decides by its key whether a peer may connect. The question comes before the peer has proven
/// possession of the key. Only a connection whose handshake completed shows an identity.
pub trait Admit: Send + Sync {
    /// Whether the holder of `key` may connect.
    fn admit(&self, key: &PublicKey) -> bool;
}

impl<F: Fn(&PublicKey) -> bool + Send + Sync> Admit for F {
    fn admit(&self, key: &PublicKey) -> bool {
        self(key)
    }
}

/// The key that a client expects from the server.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this key.
    Key(PublicKey),
    /// Any key that is admitted.
    AnyOf(Arc<dyn Admit>),
    /// Any ML-DSA-87 key. Attestation needs it, because there the answer itself proves the
    /// identity.
    Any,
}

impl Admit for Expect {
    fn admit(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(expected) => key == expected,
            Self::AnyOf(admit) => admit.admit(key),
            Self::Any => true,
        }
    }
}

/// The server's configuration: it shows `key`, demands a client key and asks `admit` about it.
///
/// # Errors
/// [`TlsError`] if rustls does not accept the key.
pub fn server_config(
    key: &SecretKey,
    admit: Arc<dyn Admit>,
    alpn: &[u8],
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let resolver =
        rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified(key, &provider)?);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RawKeyVerifier { admit, provider }))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's configuration: it shows `key` and demands an expected server key.
///
/// # Errors
/// [`TlsError`] if rustls does not accept the key.
pub fn client_config(
    key: &SecretKey,
    expect: Expect,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let resolver =
        rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified(key, &provider)?);
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeyVerifier {
            admit: Arc::new(expect),
            provider,
        }))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The key that a peer showed, if it is an ML-DSA-87 key and the only thing it showed.
#[must_use]
pub fn peer_key(certs: &[CertificateDer<'_>]) -> Option<PublicKey> {
    match certs {
        [only] => PublicKey::from_slice(only.as_ref().strip_prefix(&SPKI_HEAD)?),
        _ => None,
    }
}

/// The DER of `key` as a SubjectPublicKeyInfo, the form in which the handshake carries it.
#[must_use]
pub fn subject_public_key_info(key: &PublicKey) -> Vec<u8> {
    [&SPKI_HEAD, key.as_bytes()].concat()
}

/// A short word (a metric label) for why a handshake failed.
#[must_use]
pub fn refusal(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "unknown_key"
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => "bad_signature",
        Error::InvalidCertificate(_) => "not_a_raw_ml_dsa_87_key",
        Error::NoCertificatesPresented => "no_key",
        Error::PeerIncompatible(_) => "incompatible",
        Error::NoApplicationProtocol => "other_protocol",
        Error::AlertReceived(_) => "refused_by_peer",
        _ => "handshake",
    }
}

/// The same word for a TLS alert that this side sent. QUIC reports only the alert.
#[must_use]
pub fn refusal_of_alert(alert: u8) -> &'static str {
    match AlertDescription::from(alert) {
        AlertDescription::AccessDenied => "unknown_key",
        AlertDescription::DecryptError => "bad_signature",
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "not_a_raw_ml_dsa_87_key"
        }
        AlertDescription::CertificateRequired => "no_key",
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => "incompatible",
        AlertDescription::NoApplicationProtocol => "other_protocol",
        _ => "handshake",
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..default_provider()
    })
}

fn certified(key: &SecretKey, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let pkcs8 = PrivateKeyDer::Pkcs8(key.pkcs8()?.to_vec().into());
    let signing = provider.key_provider.load_private_key(pkcs8)?;
    let shown = CertificateDer::from(subject_public_key_info(key.public_key()));
    Ok(Arc::new(CertifiedKey::new(vec![shown], signing)))
}

/// The check of a peer, which is the same on both sides: one raw ML-DSA-87 key that is admitted,
/// and a handshake that is signed with it.
struct RawKeyVerifier {
    admit: Arc<dyn Admit>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for RawKeyVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawKeyVerifier")
    }
}

impl RawKeyVerifier {
    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !more.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let key = peer_key(std::slice::from_ref(shown)).ok_or(CertificateError::BadEncoding)?;
        if self.admit.admit(&key) {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn signed(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ML_DSA_87 {
            return Err(CertificateError::BadSignature.into());
        }
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(
            message,
            &key,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_87]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_87]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
