package wire

import (
	"crypto/sha256"
	"encoding/binary"
)

// Limits in bytes of what the programs of a sidecar network ask each other.
const (
	MaxAppData    = 1 << 20                 // of a request
	MaxAppChunk   = 4 << 20                 // of a part of an answer
	MaxAppRequest = MaxAppData + 512        // the frame, with room for fields to come
	MaxAppAnswer  = MaxAppChunk + 2*MaxText // the frame
)

// AppRequest is what a program asks the program of another node.
type AppRequest struct {
	Data []byte // ≤ MaxAppData
}

// Encode gives at most MaxAppRequest bytes within the fields' limits.
func (r AppRequest) Encode() []byte { return putBytes(make([]byte, 0, len(r.Data)+8), 1, r.Data) }

// DecodeAppRequest reads a request, which may be empty.
func DecodeAppRequest(b []byte) (AppRequest, error) {
	var r AppRequest
	f := scan("app request", b, MaxAppRequest)
	for f.next() {
		if f.num == 1 {
			r.Data = f.bytes(MaxAppData)
		}
	}
	return result(r, &f)
}

// AppAnswer is a part of the answer. One that ends without Last was cut off.
type AppAnswer struct {
	Data  []byte // ≤ MaxAppChunk
	Last  bool
	Error string // why there is no more, in the program's words; only with Last
}

// Encode gives at most MaxAppAnswer bytes within the fields' limits.
func (a AppAnswer) Encode() []byte {
	b := putBytes(make([]byte, 0, len(a.Data)+len(a.Error)+16), 1, a.Data)
	if a.Last {
		b = putUint(b, 2, 1)
	}
	return putText(b, 3, a.Error, MaxText)
}

// DecodeAppAnswer reads a part of an answer.
func DecodeAppAnswer(b []byte) (AppAnswer, error) {
	var a AppAnswer
	f := scan("app answer", b, MaxAppAnswer)
	for f.next() {
		switch f.num {
		case 1:
			a.Data = f.bytes(MaxAppChunk)
		case 2:
			a.Last = f.uint(1) == 1
		case 3:
			a.Error = f.text(MaxText)
		}
	}
	return result(a, &f)
}

// TopicName is a topic's name on the wire.
func TopicName(net, last string) string { return "/parley/" + net + "/" + last }

// MessageID is the first 20 bytes of SHA-256(u16 len(topic) ‖ topic ‖ data),
// where topic is the name on the wire. Without the length, data in topic "a"
// could take the id of one in "ab".
func MessageID(topic string, data []byte) [20]byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(topic))))
	h.Write([]byte(topic))
	h.Write(data)
	return [20]byte(h.Sum(nil)[:20])
}
