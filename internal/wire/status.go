package wire

import (
	"math"

	"github.com/parley-p2p/parley/chain"
)

// ProtocolVersion is what this program puts in Version.Protocol.
const ProtocolVersion uint32 = 1

// Limits in bytes of the texts in a Version and beside it.
const (
	MaxNetwork   = 64
	MaxChainID   = 48
	MaxUserAgent = 128
	MaxName      = 64
	MaxBaseURL   = 2048
	MaxAppStatus = 1 << 10
	MaxText      = 256 // why a peer is refused or left
)

// Version is what a node says of itself: the first frame of a handshake, and
// the claim on topic handshake. All of it is claimed, nothing proved.
type Version struct {
	Protocol       uint32
	Network        string     // kind; "sidecar/" + name for a sidecar
	ChainID        string     // "" = none yet
	GenesisHash    chain.Hash // zero = none yet
	BestHeight     uint64
	BestHash       chain.Hash
	EarliestHeight uint64 // lowest height that is served
	UserAgent      string
	Services       chain.Service
	Name           string
	BaseURL        string // public URL of the API, not checked here
	Nonce          uint64 // by which a node knows itself
	TimeMS         uint64 // since 1970
	APIPort        uint16 // 0 = none
	AppStatus      []byte // the network's own
}

// Status is the network's part of v.
func (v Version) Status() chain.Status {
	return chain.Status{
		Network:  v.Network,
		ChainID:  v.ChainID,
		Genesis:  v.GenesisHash,
		Head:     chain.Head{Height: v.BestHeight, Hash: v.BestHash},
		Earliest: v.EarliestHeight,
		Services: v.Services,
		App:      v.AppStatus,
	}
}

// SetStatus fills the network's part of v.
func (v *Version) SetStatus(s chain.Status) {
	v.Network = s.Network
	v.ChainID = s.ChainID
	v.GenesisHash = s.Genesis
	v.BestHeight, v.BestHash = s.Head.Height, s.Head.Hash
	v.EarliestHeight = s.Earliest
	v.Services = s.Services
	v.AppStatus = s.App
}

// Encode gives at most MaxVersion bytes when AppStatus keeps its limit.
func (v Version) Encode() []byte {
	var b []byte
	b = putUint(b, 1, uint64(v.Protocol))
	b = putText(b, 2, v.Network, MaxNetwork)
	b = putText(b, 3, v.ChainID, MaxChainID)
	b = putHash(b, 4, v.GenesisHash)
	b = putUint(b, 5, v.BestHeight)
	b = putHash(b, 6, v.BestHash)
	b = putUint(b, 7, v.EarliestHeight)
	b = putText(b, 8, v.UserAgent, MaxUserAgent)
	b = putUint(b, 9, uint64(v.Services))
	b = putText(b, 10, v.Name, MaxName)
	b = putText(b, 11, v.BaseURL, MaxBaseURL)
	b = putUint(b, 12, v.Nonce)
	b = putUint(b, 13, v.TimeMS)
	b = putUint(b, 14, uint64(v.APIPort))
	return putBytes(b, 15, v.AppStatus)
}

// DecodeVersion reads a Version of any protocol number; whether that is too
// old is the handshake's to say.
func DecodeVersion(b []byte) (Version, error) {
	var v Version
	f := scan("version", b, MaxVersion)
	for f.next() {
		switch f.num {
		case 1:
			v.Protocol = uint32(f.uint(math.MaxUint32))
		case 2:
			v.Network = f.text(MaxNetwork)
		case 3:
			v.ChainID = f.text(MaxChainID)
		case 4:
			v.GenesisHash = f.hash()
		case 5:
			v.BestHeight = f.uint(maxNumber)
		case 6:
			v.BestHash = f.hash()
		case 7:
			v.EarliestHeight = f.uint(maxNumber)
		case 8:
			v.UserAgent = f.text(MaxUserAgent)
		case 9:
			v.Services = chain.Service(f.uint(math.MaxUint64))
		case 10:
			v.Name = f.text(MaxName)
		case 11:
			v.BaseURL = f.text(MaxBaseURL)
		case 12:
			v.Nonce = f.uint(math.MaxUint64)
		case 13:
			v.TimeMS = f.uint(maxNumber)
		case 14:
			v.APIPort = uint16(f.uint(math.MaxUint16))
		case 15:
			v.AppStatus = f.bytes(MaxAppStatus)
		}
	}
	return result(v, &f)
}

// Codes of a Verack. Every other code is a refusal too.
const (
	VerackOK       uint32 = 0
	WrongNetwork   uint32 = chain.WrongNetwork
	WrongGenesis   uint32 = chain.WrongGenesis
	TooManyPeers   uint32 = 3
	Banned         uint32 = 4
	Self           uint32 = 5 // the nonce is our own
	ProtocolTooOld uint32 = 6
	NotAllowed     uint32 = 7
)

var verackNames = [...]string{
	"ok", "wrong_network", "wrong_genesis", "too_many_peers", "banned", "self", "protocol_too_old", "not_allowed",
}

// VerackName is the word for a code, "other" for an unknown one.
func VerackName(code uint32) string {
	if uint64(code) < uint64(len(verackNames)) {
		return verackNames[code]
	}
	return "other"
}

// Verack answers a Version.
type Verack struct {
	Code    uint32
	Text    string  // for the other side's log
	Version Version // the answering node
}

// Encode gives at most MaxVerack bytes when AppStatus keeps its limit.
func (v Verack) Encode() []byte {
	var b []byte
	b = putUint(b, 1, uint64(v.Code))
	b = putText(b, 2, v.Text, MaxText)
	return putBytes(b, 3, v.Version.Encode())
}

// DecodeVerack reads a Verack of any code.
func DecodeVerack(b []byte) (Verack, error) {
	var v Verack
	f := scan("verack", b, MaxVerack)
	for f.next() {
		switch f.num {
		case 1:
			v.Code = uint32(f.uint(math.MaxUint32))
		case 2:
			v.Text = f.text(MaxText)
		case 3:
			inner, err := DecodeVersion(f.bytes(MaxVersion))
			if f.err == nil {
				v.Version, f.err = inner, err
			}
		}
	}
	return result(v, &f)
}

// Codes of a Goodbye.
const (
	GoodbyeShutdown     uint64 = 1
	GoodbyeWrongNetwork uint64 = 2
	GoodbyeFault        uint64 = 3
	GoodbyeTooManyPeers uint64 = 129
	GoodbyeBadScore     uint64 = 250
	GoodbyeBanned       uint64 = 251
)

// Goodbye says why a connection is closed; it is sent before closing.
type Goodbye struct {
	Code uint64
	Text string
}

// Encode gives at most MaxGoodbye bytes.
func (g Goodbye) Encode() []byte {
	return putText(putUint(nil, 1, g.Code), 2, g.Text, MaxText)
}

// DecodeGoodbye reads a Goodbye of any code.
func DecodeGoodbye(b []byte) (Goodbye, error) {
	var g Goodbye
	f := scan("goodbye", b, MaxGoodbye)
	for f.next() {
		switch f.num {
		case 1:
			g.Code = f.uint(math.MaxUint64)
		case 2:
			g.Text = f.text(MaxText)
		}
	}
	return result(g, &f)
}
