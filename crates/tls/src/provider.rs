//! The cryptography: rustls with aws-lc, TLS 1.3 suites only, ordered for this CPU.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use sidegate_config::schema::Group;

/// The provider that configurations are built with; nothing reads the process-wide default.
///
/// The groups are aws-lc's with X25519MLKEM768 first. AES-128-GCM comes first where the CPU has AES instructions: it
/// is the fastest there, and its 128 bits are what P-256 gives anyway.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let (aes128, aes256, chacha) = (
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            );
            let cipher_suites = if cpu_has_aes() { vec![aes128, aes256, chacha] } else { vec![chacha, aes128, aes256] };
            Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
        })
        .clone()
}

/// The same with these groups only, the first of which a client sends its share of.
pub(crate) fn provider_with(groups: &[Group]) -> Arc<CryptoProvider> {
    let kx_groups = groups.iter().map(|group| match group {
        Group::X25519Mlkem768 => kx_group::X25519MLKEM768,
        Group::X25519 => kx_group::X25519,
        Group::Secp256r1 => kx_group::SECP256R1,
        Group::Secp384r1 => kx_group::SECP384R1,
    });
    Arc::new(CryptoProvider { kx_groups: kx_groups.collect(), ..(*provider()).clone() })
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, NamedGroup};
    use sidegate_config::schema::Tls;

    /// Fails when an update of the provider changes what goes over the wire.
    #[test]
    fn what_is_offered_is_what_was_chosen() {
        let provider = super::provider();
        let suites: Vec<CipherSuite> = provider.cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
        assert_eq!(suites.len(), 3);
        if super::cpu_has_aes() {
            assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        }
        let groups = [provider.kx_groups.clone(), super::provider_with(&Tls::default().groups).kx_groups.clone()];
        for groups in groups {
            let groups: Vec<NamedGroup> = groups.iter().map(|g| g.name()).collect();
            assert_eq!(groups, [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1]);
        }
    }
}
