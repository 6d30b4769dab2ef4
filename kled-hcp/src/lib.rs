//! Kled and the products of HashiCorp.
//!
//! This crate is where a Kled platform meets Vault, Consul, Terraform and the other HashiCorp products. Nothing of it is
//! built yet; this page says what will be here, so that the rest can be written towards it.
//!
//! | module | what it will be |
//! |---|---|
//! | `vault` | a `SecretSource` of `kled-core` for `vault:` references |
//! | `consul` | the registration and discovery of services that run in workspaces and clusters |
//! | `terraform` | a Terraform provider for clusters and workspaces |
//! | `waypoint`, `packer`, `vagrant` | deployment, machine images and development machines |
//! | `vault_radar`, `vault_secrets`, `vault_dedicated` | the services of the HashiCorp Cloud Platform |
//!
//! It will see `kled-core` only, never a backend of `kled-providers`: what both need is a trait in `kled_core::ports`.
