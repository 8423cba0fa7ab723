//! Every rule by its code, with what it asks and what to do where it does not hold.
//!
//! A code is part of the format: it is what scripts match on, and it is never reused.

/// One thing that an appraisal looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Stable name, such as `snp.policy.debug`.
    pub code: &'static str,
    /// What holds where the rule holds, as one clause.
    pub asks: &'static str,
    /// What a person can do where it does not.
    pub advice: &'static str,
}

impl Rule {
    /// Whether the rule only asks if the policy lists what genuine evidence names: a machine, an
    /// image, a signer. Evidence that fails by such rules alone is intact and unknown, not invalid.
    pub fn is_of_listing(&self) -> bool {
        LISTING.iter().any(|rule| rule.code == self.code)
    }
}

/// See [`Rule::is_of_listing`].
const LISTING: &[Rule] = &[
    SNP_CSP,
    SNP_CHIP_ALLOWED,
    SNP_MEASUREMENT,
    SNP_FAMILY_ID,
    SNP_IMAGE_ID,
    SNP_HOST_DATA,
    SNP_ID_KEY,
    SNP_AUTHOR_KEY,
    TDX_PLATFORM,
    TDX_MRTD,
    TDX_RTMR0,
    TDX_RTMR1,
    TDX_RTMR2,
    TDX_RTMR3,
    TDX_CONFIG_ID,
    TDX_OWNER,
    TDX_OWNER_CONFIG,
    TDX_SEAM,
    BOUND_SIGNER,
    BOUND_WORKER,
    BOUND_NOTARY,
    BOUND_CONFIGURATION,
    SOFTWARE_VOUCHED,
];

/// Declares rules as constants, and `ALL` as the list of them.
macro_rules! rules {
    ($($name:ident $code:literal $asks:literal $advice:literal;)*) => {
        $(pub(crate) const $name: Rule = Rule { code: $code, asks: $asks, advice: $advice };)*
        /// Every rule, in the order in which they are looked at.
        pub const ALL: &[Rule] = &[$($name),*];
    };
}

rules! {
    CLOCK "input.clock" "the time of the appraisal is in 2020 or later"
        "set this machine's clock, or name the time with --at";
    KIND "input.kind" "the policy has a section for this kind of evidence"
        "add the section to the policy if such machines are to be trusted";
    ROOTS "input.roots" "the roots are the vendor's own"
        "use a build with the vendors' roots; replaced roots are for tests under `profile = \"development\"`";
    BINDING "input.report-data" "REPORT_DATA is what the relying party computed"
        "ask for fresh evidence over your own nonce and this key: this one speaks for something else; of a raw report or quote name the bytes with --report-data";

    BOUND_SECTION "bound.section" "the policy says which signers it accepts"
        "add an [evanesce] section to the policy; `evanesce attest policy init --from-evidence` writes one";
    BOUND_PURPOSE "bound.purpose" "the policy lists what the evidence is for"
        "ask for evidence of the purpose that you need, or list this one in purposes";
    BOUND_NONCE "bound.nonce" "the evidence has the nonce that was asked for"
        "ask for fresh evidence over your own nonce: this one may be old";
    BOUND_KEY "bound.key" "the evidence speaks for the key that was asked for"
        "ask for evidence of this very key";
    BOUND_SIGNER "bound.signer" "the policy lists the signer module"
        "compare the digest with a signer.wasm that you built yourself, then list it in signers";
    BOUND_WORKER "bound.worker" "the policy lists the worker"
        "compare the digest with a worker that you built yourself, then list it in workers";
    BOUND_NOTARY "bound.notary" "the policy lists the notary"
        "list the notary in notaries if its certificates and receipts are to be believed";
    BOUND_CONFIGURATION "bound.configuration" "the policy lists the runtime configuration"
        "read the configuration in the evidence, and list its digest if it is acceptable";

    SOFTWARE_PROFILE "software.profile" "evidence is of a machine, where the policy is for production"
        "collect evidence inside a confidential machine: insecure software evidence proves nothing";
    SOFTWARE_READABLE "software.readable" "the evidence has the form of insecure software evidence"
        "collect it again";
    SOFTWARE_SIGNATURE "software.signature" "the key in the evidence signed exactly these bytes"
        "discard the evidence: it was changed after signing";
    SOFTWARE_VOUCHED "software.vouched" "a machine vouches for the evidence"
        "use it to try things out, and nothing else: nobody vouches for insecure software evidence";

    SNP_LENGTH "snp.report.length" "the report has exactly 1184 bytes"
        "hand over the report as the firmware returned it, without its certificate table";
    SNP_VERSION "snp.report.version" "the report's version is one that is known here"
        "update the firmware, or this program if the version is newer than it";
    SNP_VERSION_ALLOWED "snp.report.version-allowed" "the policy lists the report's version"
        "update the machine's firmware, or list the version in report_versions";
    SNP_ALGORITHM "snp.report.algorithm" "the report says it is signed with ECDSA P-384 and SHA-384"
        "discard the report: no AMD firmware writes this";
    SNP_RESERVED "snp.report.reserved" "reserved bytes and bits of the report are zero"
        "discard the report, or update this program if the report is of newer firmware";
    SNP_PADDING "snp.report.padding" "the bytes around the signature's two numbers are zero"
        "discard these bytes: they were changed after signing";
    SNP_SIGNATURE "snp.report.signature" "the certificate's key signed exactly these bytes"
        "fetch the certificate for this chip and TCB; if it still fails, the report was changed";

    SNP_VEK_PRESENT "snp.vek.present" "there is a VCEK or VLEK certificate for the report"
        "fetch it from AMD's key distribution service with `evanesce attest collateral fetch`, or hand it over with --vek";
    SNP_VEK_READABLE "snp.vek.readable" "the certificate is one DER or PEM X.509 certificate"
        "hand over the certificate as AMD's key distribution service returns it";
    SNP_VEK_SUBJECT "snp.vek.subject" "the certificate is for a VCEK or a VLEK"
        "hand over the VCEK or VLEK certificate, not one of its issuers";
    SNP_VEK_KEY "snp.vek.key" "the certificate's key is on P-384"
        "discard the certificate: AMD issues none like it";
    SNP_VEK_EXTENSIONS "snp.vek.extensions" "the certificate's extensions are AMD's, each once and readable"
        "discard the certificate: AMD issues none like it";
    SNP_VEK_VALIDITY "snp.vek.validity" "the time is within the certificate's validity"
        "fetch a current certificate, or appraise at the time of the evidence with --at";
    SNP_VEK_PRODUCT_NAME "snp.vek.product-name" "the certificate's product name is its issuer's product"
        "discard the certificate: AMD issues none like it";

    SNP_PRODUCT "snp.chain.product" "the issuer is one of AMD's known product lines"
        "fetch the certificate of this machine, or update this program if the product is new";
    SNP_PRODUCT_ALLOWED "snp.chain.product-allowed" "the policy lists the product line"
        "list the product in products, with its minimum TCB, if such machines are to be trusted";
    SNP_ARK "snp.chain.root" "the pinned root key signed itself and the issuing key"
        "this build's roots are damaged: reinstall it";
    SNP_CA_VALIDITY "snp.chain.validity" "the time is within the validity of root and issuer"
        "check the clock, or appraise at the time of the evidence with --at";
    SNP_CHAIN "snp.chain.signature" "the pinned issuing key signed the certificate"
        "fetch the certificate from AMD again: this one is not AMD's";

    SNP_CRL_PRESENT "snp.crl.present" "there is a revocation list of the product's root"
        "fetch AMD's CRL for the product with `evanesce attest collateral fetch`, or hand it over with --crl";
    SNP_CRL_READABLE "snp.crl.readable" "the revocation list is one DER or PEM CRL"
        "fetch the CRL again";
    SNP_CRL_ISSUER "snp.crl.issuer" "the revocation list is of this product's root"
        "fetch the CRL of the machine's own product line";
    SNP_CRL_SIGNATURE "snp.crl.signature" "the root signed the revocation list"
        "fetch the CRL again: this one is not AMD's";
    SNP_CRL_CURRENT "snp.crl.current" "the time is between the list's thisUpdate and nextUpdate"
        "fetch a current CRL, or appraise at the time of the evidence with --at";
    SNP_CRL_AGE "snp.crl.age" "the revocation list is not older than the policy wants"
        "fetch a newer CRL, or raise crl.age_hours_max";
    SNP_CRL_REVOKED "snp.crl.revoked" "neither the issuing key nor the certificate is revoked"
        "stop trusting this machine's key: AMD has withdrawn it or its issuer";

    SNP_KEY_KIND "snp.key.kind" "the report names the kind of key that the certificate is for"
        "hand over the certificate of the key that signed: VCEK or VLEK";
    SNP_KEY_ALLOWED "snp.key.allowed" "the policy lists the kind of signing key"
        "list the kind in signing_keys; a VLEK names a provider, not a chip";
    SNP_KEY_MASKED "snp.key.masked" "the chip's key is not masked"
        "ask the provider not to set MASK_CHIP_KEY: such a report proves nothing";
    SNP_CSP "snp.key.provider" "the VLEK is of a provider that the policy lists"
        "list the provider in csp_ids if it is to be trusted";
    SNP_GENERATION "snp.chip.generation" "the processor's family and model are of the certificate's product"
        "fetch the certificate of this machine: this one is for another generation";
    SNP_HWID "snp.chip.certificate" "the certificate is for the chip that the report names"
        "fetch the certificate by this report's CHIP_ID: this one is for another chip";
    SNP_CHIP_ID "snp.chip.named" "the report names its chip"
        "ask the provider not to mask CHIP_ID, or use a VLEK";
    SNP_CHIP_ALLOWED "snp.chip.allowed" "the policy lists the chip"
        "list the chip in chip_ids if this very machine is to be trusted";

    SNP_TCB_CERTIFIED "snp.tcb.certified" "the reported TCB is the one the certificate was issued for"
        "fetch the certificate for the reported TCB";
    SNP_TCB_REPORTED "snp.tcb.reported" "the reported TCB is not above the running one"
        "discard the report: it claims more than what runs";
    SNP_TCB_COMMITTED "snp.tcb.committed" "the committed TCB is not above the running one"
        "discard the report: it claims more than what runs";
    SNP_TCB_PROVISIONAL "snp.tcb.provisional" "the running firmware is committed, so it cannot be rolled back"
        "have the operator commit the firmware, or set provisional_firmware_allowed = true";
    SNP_TCB_MIN "snp.tcb.minimum" "the reported TCB is at least the policy's in each part"
        "update the machine's firmware; lower tcb_min only if you accept the known flaws";
    SNP_TCB_LAUNCH "snp.tcb.launch" "the TCB at launch is at least the policy's in each part"
        "restart the guest on updated firmware";
    SNP_FIRMWARE "snp.firmware.minimum" "the running firmware is at least the policy's"
        "update the machine's firmware";
    SNP_MITIGATIONS "snp.firmware.mitigations" "every mitigation that the policy wants is on, now and at launch"
        "update the machine's firmware, then restart the guest";

    SNP_POLICY_ABI "snp.policy.abi" "the guest asked for at least the policy's firmware ABI"
        "launch the guest with a newer ABI_MAJOR and ABI_MINOR in its policy";
    SNP_POLICY_FIXED "snp.policy.fixed-bit" "bit 17 of the guest's policy is one"
        "discard the report: no AMD firmware writes this";
    SNP_POLICY_UNKNOWN "snp.policy.unknown" "the guest's policy has no bit that is unknown here"
        "update this program if the machine is newer than it";
    SNP_POLICY_SMT "snp.policy.smt" "the guest may not run with SMT unless the policy allows it"
        "launch the guest with SMT forbidden, or list \"smt\" in guest_policy_allowed";
    SNP_POLICY_MIGRATION "snp.policy.migration" "no migration agent may take the guest elsewhere"
        "launch the guest without MIGRATE_MA";
    SNP_POLICY_DEBUG "snp.policy.debug" "the host may not debug the guest"
        "launch the guest without DEBUG: with it the host reads all of its memory";
    SNP_POLICY_CXL "snp.policy.cxl" "the guest may not use CXL memory unless the policy allows it"
        "launch the guest without CXL_ALLOW, or list \"cxl\" in guest_policy_allowed";
    SNP_POLICY_SINGLE_SOCKET "snp.policy.single-socket" "the guest asks for a single socket where the policy wants it"
        "launch the guest with SINGLE_SOCKET";
    SNP_POLICY_XTS "snp.policy.aes-256-xts" "the guest asks for AES-256-XTS where the policy wants it"
        "launch the guest with MEM_AES_256_XTS";
    SNP_POLICY_RAPL "snp.policy.rapl-disabled" "the guest asks for RAPL to be off where the policy wants it"
        "launch the guest with RAPL_DIS";
    SNP_POLICY_HIDING "snp.policy.ciphertext-hiding" "the guest asks for ciphertext hiding where the policy wants it"
        "launch the guest with CIPHERTEXT_HIDING_DRAM";
    SNP_POLICY_SWAP "snp.policy.page-swap-disabled" "the guest forbids page swapping where the policy wants it"
        "launch the guest with PAGE_SWAP_DISABLE";

    SNP_PLATFORM_SMT "snp.platform.smt" "the machine runs without SMT unless the policy allows it"
        "turn SMT off in the machine's firmware, or list \"smt\" in platform_allowed";
    SNP_PLATFORM_TIO "snp.platform.tio" "the machine runs without trusted I/O unless the policy allows it"
        "turn SEV-TIO off, or list \"tio\" in platform_allowed";
    SNP_PLATFORM_TSME "snp.platform.tsme" "transparent memory encryption is on where the policy wants it"
        "turn TSME on in the machine's firmware";
    SNP_PLATFORM_ECC "snp.platform.ecc" "the memory has ECC where the policy wants it"
        "run on a machine with ECC memory";
    SNP_PLATFORM_RAPL "snp.platform.rapl-disabled" "RAPL is off where the policy wants it"
        "turn RAPL off in the machine's firmware";
    SNP_PLATFORM_HIDING "snp.platform.ciphertext-hiding" "ciphertext hiding is on where the policy wants it"
        "turn ciphertext hiding on in the machine's firmware";
    SNP_PLATFORM_ALIAS "snp.platform.alias-check" "the firmware looked for aliased memory since the last reset"
        "update the machine's firmware to one that checks for BadRAM";

    SNP_VMPL "snp.guest.vmpl" "the report was asked for at a privilege level that the policy lists"
        "collect at VMPL 0, or list the level of your service module in vmpls";
    SNP_MEASUREMENT "snp.guest.measurement" "the policy lists what was launched"
        "launch the image whose measurement you computed, or add this measurement after rebuilding it yourself";
    SNP_GUEST_SVN "snp.guest.svn" "the image's security version is at least the policy's"
        "launch a newer image";
    SNP_FAMILY_ID "snp.guest.family-id" "the policy lists the family id"
        "launch the image that is meant";
    SNP_IMAGE_ID "snp.guest.image-id" "the policy lists the image id"
        "launch the image that is meant";
    SNP_HOST_DATA "snp.guest.host-data" "the policy lists what the host gave the guest at launch"
        "launch the guest with the HOST_DATA that is meant";
    SNP_ID_KEY "snp.guest.id-key" "the policy lists the key that signed the image's identity"
        "launch the image with its own id block";
    SNP_AUTHOR_KEY "snp.guest.author-key" "the policy lists the key that vouches for the id key"
        "launch the image with its own id block and author key";

    TDX_LENGTH "tdx.quote.length" "the quote has no more bytes than any quote can have"
        "hand over one quote and nothing else";
    TDX_READABLE "tdx.quote.readable" "the bytes are a quote of version 4 or 5 of a TD"
        "hand over the quote as the quoting service returned it";
    TDX_VERSION "tdx.quote.version-allowed" "the policy lists the quote's version"
        "list the version in quote_versions";
    TDX_PADDING "tdx.quote.padding" "nothing but zeros follows the quote"
        "discard these bytes: something was appended to the quote";
    TDX_COLLATERAL_PRESENT "tdx.collateral.present" "there is collateral for the quote"
        "fetch it from Intel's provisioning service with `evanesce attest collateral fetch`, or hand it over with --collateral";
    TDX_COLLATERAL_READABLE "tdx.collateral.readable" "the collateral is JSON of the form that DCAP uses, with no part missing"
        "fetch the collateral again";
    TDX_COLLATERAL_TIME "tdx.collateral.current" "the time is within the dates of all collateral"
        "fetch current collateral, or appraise at the time of the evidence with --at";
    TDX_COLLATERAL_SIGNATURE "tdx.collateral.signature" "Intel signed the collateral"
        "fetch the collateral again: this was changed or is not Intel's";
    TDX_COLLATERAL_PLATFORM "tdx.collateral.platform" "the collateral is for the quote's platform"
        "fetch the collateral for this quote's FMSPC";
    TDX_SIGNATURE "tdx.quote.signature" "the platform's attestation key signed exactly these bytes"
        "discard the quote: it was changed after signing";
    TDX_ENCLAVE "tdx.quote.enclave" "Intel's quoting enclave made the quote and vouches for its key"
        "discard the quote: what made it is not Intel's quoting enclave";
    TDX_TCB_LEVEL "tdx.tcb.level" "the collateral knows the platform's TCB"
        "update the machine's firmware and the TDX module";
    TDX_VERIFIED "tdx.quote.verified" "the quote passes DCAP verification"
        "see what was found";
    TDX_CHAIN "tdx.chain.signature" "every certificate chain ends at Intel's root"
        "fetch the collateral again, and discard the quote if it still fails: its platform's certificate is not Intel's";
    TDX_REVOKED "tdx.chain.revoked" "Intel has revoked no certificate of the chains"
        "stop trusting this platform: Intel has withdrawn its certificate or an issuer's";
    TDX_TCB_REVOKED "tdx.tcb.revoked" "Intel has not revoked the platform's TCB"
        "update the machine's firmware and the TDX module: what runs is known to be broken";
    TDX_MODULE "tdx.module.identity" "the TDX module is one that the collateral knows, with the attributes it wants"
        "update the TDX module";
    TDX_PROFILING "tdx.td.profiling" "the host may not profile the TD"
        "launch the TD without profiling: with it the host learns what the TD does";
    TDX_RESERVED "tdx.td.reserved" "reserved attributes of the TD are zero"
        "discard the quote, or update this program if the TDX module is newer than it";
    TDX_MIGRATABLE "tdx.td.migratable" "no other machine may take the TD over"
        "launch the TD without MIGRATABLE";
    TDX_SERVICE "tdx.td.service-td" "no service TD is bound to the TD"
        "launch the TD without a migration or other service TD";
    TDX_DEBUG "tdx.td.debug" "the host may not debug the TD"
        "launch the TD without DEBUG: with it the host reads all of its memory";
    TDX_SEPT_VE "tdx.td.sept-ve-disable" "the host cannot inject exceptions by unmapping pages"
        "launch the TD with SEPT_VE_DISABLE";
    TDX_STATUS "tdx.tcb.status" "the policy lists the TCB status"
        "update the machine's firmware and the TDX module; list other statuses only after reading their advisories";
    TDX_STATUS_NOW "tdx.tcb.status-now" "the policy lists the status of what runs since the last update"
        "update the TDX module again; list other statuses only after reading their advisories";
    TDX_ADVISORIES "tdx.tcb.advisories" "no advisory that the policy denies is open"
        "update the machine's firmware and the TDX module";
    TDX_EVALUATION "tdx.tcb.evaluation" "the collateral is of the policy's TCB evaluation or a later one"
        "fetch newer collateral";
    TDX_DYNAMIC "tdx.platform.dynamic" "the platform is fixed unless the policy allows packages to be added"
        "set dynamic_platform_allowed = true for servers with several packages";
    TDX_CACHED "tdx.platform.cached-keys" "the platform's keys are not cached at Intel unless the policy allows it"
        "set cached_keys_allowed = true if that is acceptable";
    TDX_SMT "tdx.platform.smt" "the platform runs without SMT unless the policy allows it"
        "turn SMT off in the machine's firmware, or set smt_allowed = true";
    TDX_PLATFORM "tdx.platform.allowed" "the policy lists the platform"
        "list the platform in platform_ids if this very machine is to be trusted";
    TDX_ATTRIBUTES "tdx.td.attributes" "the TD's attributes are the policy's"
        "launch the TD with the attributes that are meant";
    TDX_XFAM "tdx.td.xfam" "the TD's extended features are the policy's"
        "launch the TD with the features that are meant";
    TDX_MRTD "tdx.td.mrtd" "the policy lists what was launched"
        "launch the image whose MRTD you computed, or add this one after rebuilding it yourself";
    TDX_RTMR0 "tdx.td.rtmr0" "the policy lists RTMR 0, the firmware's configuration"
        "compare the event log: the virtual firmware was configured otherwise";
    TDX_RTMR1 "tdx.td.rtmr1" "the policy lists RTMR 1, the boot loader and kernel"
        "compare the event log: another kernel was started";
    TDX_RTMR2 "tdx.td.rtmr2" "the policy lists RTMR 2, the kernel's command line and initrd"
        "compare the event log: another command line or initrd was used";
    TDX_RTMR3 "tdx.td.rtmr3" "the policy lists RTMR 3, what the guest measured itself"
        "compare the event log: the guest measured something else";
    TDX_CONFIG_ID "tdx.td.mrconfigid" "the policy lists MRCONFIGID"
        "launch the TD with the configuration that is meant";
    TDX_OWNER "tdx.td.mrowner" "the policy lists MROWNER"
        "launch the TD with the owner that is meant";
    TDX_OWNER_CONFIG "tdx.td.mrownerconfig" "the policy lists MROWNERCONFIG"
        "launch the TD with the owner's configuration that is meant";
    TDX_SEAM "tdx.module.mrseam" "the policy lists the TDX module"
        "update the TDX module, or list its MRSEAM";
}
