package consortium

// Limits of the encoding. They are part of the chain: a node with other
// values would not agree with the rest.
const (
	MaxSubject   = 256    // bytes
	MinMediaType = 3      // bytes, as in "a/b"
	MaxMediaType = 127    // bytes
	MaxBody      = 65_536 // bytes of a record's body; larger data: record its hash

	recordFixed = 121 // bytes of a record beside subject, media type and body
	MinRecord   = recordFixed + 1 + MinMediaType
	MaxRecord   = recordFixed + MaxSubject + MaxMediaType + MaxBody // 66,040

	SubtreeRecords = 256     // records
	SubtreeBytes   = 458_752 // bytes of records without their lengths: fits a sync frame of 512 KiB

	MinBlockBytes = 128 << 10 // bounds of Params.MaxBlockBytes
	MaxBlockBytes = 8 << 20   // a view change carries 2 × quorum bodies

	headerFixed = 204 // bytes of a header beside its metadata
	MaxMetadata = 64  // bytes
	MaxHeader   = headerFixed + MaxMetadata

	MaxValidators  = 31 // O(N²) messages; 13 are advised
	MaxCertificate = 8 + 2 + MaxValidators*(8+len(Signature{}))
	MaxName        = 64  // bytes of a validator's name
	MaxAddresses   = 8   // of a validator
	MaxAddress     = 256 // bytes
	MaxAdmins      = 16
	MaxAuthors     = 1_000
	MinChainID     = 3
	MaxChainID     = 48
	MaxGenesis     = 256 << 10 // bytes on the wire

	// MaxNumber bounds heights, times, epochs and validator ids: all are safe
	// in a JSON number.
	MaxNumber = 1<<53 - 1
)
