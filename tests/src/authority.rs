//! A certificate authority of a control plane's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// Signs certificates and keeps them, with their keys, as PEM files in one directory.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    name: String,
}

/// Whom a certificate speaks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    /// The user, or the server's name.
    pub(crate) common_name: String,
    /// The user's groups.
    pub(crate) organizations: Vec<String>,
    /// A server's host names and addresses; none for a client.
    pub(crate) hosts: Vec<String>,
}

impl Subject {
    /// A user of the API server.
    pub(crate) fn user(name: &str, groups: &[&str]) -> Self {
        let organizations = groups.iter().map(|&group| group.to_owned()).collect();
        Self { common_name: name.to_owned(), organizations, hosts: Vec::new() }
    }

    /// A server that is reached under these names and addresses.
    pub(crate) fn server(name: &str, hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Self { common_name: name.to_owned(), organizations: Vec::new(), hosts }
    }
}

/// A certificate and its key, in memory and in files.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) certificate_path: PathBuf,
    pub(crate) key_path: PathBuf,
}

impl Authority {
    /// A new authority; its own certificate becomes `NAME.crt` and `NAME.key` in the directory.
    pub(crate) fn create(directory: &Path, name: &str) -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name = distinguished_name(name, &[]);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let authority = Self { issuer, directory: directory.to_owned(), name: name.to_owned() };
        write(&authority.certificate_path(), &authority.certificate())?;
        write(&authority.key_path(), &authority.issuer.key().serialize_pem())?;
        Ok(authority)
    }

    pub(crate) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn certificate_path(&self) -> PathBuf {
        self.directory.join(format!("{}.crt", self.name))
    }

    pub(crate) fn key_path(&self) -> PathBuf {
        self.directory.join(format!("{}.key", self.name))
    }

    /// Signs a certificate for both ends of TLS and keeps it as `NAME.crt` and `NAME.key`.
    pub(crate) fn issue(&self, name: &str, subject: &Subject) -> Result<Credential> {
        let mut parameters = CertificateParams::new(subject.hosts.clone())?;
        parameters.distinguished_name = distinguished_name(&subject.common_name, &subject.organizations);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate =
            parameters.signed_by(&key, &self.issuer).with_context(|| format!("sign {name}"))?.pem();
        let key = key.serialize_pem();
        let certificate_path = self.directory.join(format!("{name}.crt"));
        let key_path = self.directory.join(format!("{name}.key"));
        write(&certificate_path, &certificate)?;
        write(&key_path, &key)?;
        Ok(Credential { certificate, key, certificate_path, key_path })
    }
}

/// A key pair without a certificate, as `NAME.key` and `NAME.pub`; gives both paths.
pub(crate) fn key_pair(directory: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let (private, public) = (directory.join(format!("{name}.key")), directory.join(format!("{name}.pub")));
    write(&private, &key.serialize_pem())?;
    write(&public, &key.public_key_pem())?;
    Ok((private, public))
}

fn distinguished_name(common_name: &str, organizations: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    for organization in organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name
}

fn write(path: &Path, content: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("create {}", path.display()))?;
    file.write_all(content.as_bytes()).with_context(|| format!("write {}", path.display()))
}
