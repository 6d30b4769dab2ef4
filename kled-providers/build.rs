//! Generates the agent's protocol from its definition, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "agent")]
    {
        let definition = "proto/agent.proto";
        println!("cargo:rerun-if-changed={definition}");
        tonic_prost_build::configure()
            .build_transport(false)
            .bytes(".")
            .compile_fds(protox::compile([definition], ["proto"])?)?;
    }
    Ok(())
}
