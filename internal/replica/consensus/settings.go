package consensus

import (
	"time"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"

	"github.com/parley-p2p/parley/consortium"
)

const (
	poolSize    = 2000                   // requests that the library holds
	submitWait  = 100 * time.Millisecond // it waits under the lock that a reconfiguration needs
	forwardWait = 500 * time.Millisecond
	// complainWait and forwardWait must pass before an honest busy leader is
	// accused: see feedPace.
	complainWait = 2 * time.Second
	// dropWait is past any use: the library drops requests without a word, and
	// never takes them again. The mempool decides what ends.
	dropWait    = 24 * time.Hour
	collectWait = 500 * time.Millisecond
	syncTimeout = 10 * time.Second
	inbox       = 1000 // messages; a full one makes that peer's stream wait
	ticks       = 20   // per heartbeat timeout
)

// settings are LEDGER 4.1. Rotation is off: a next leader's proposal overtakes
// delivery and is dropped.
func settings(self uint64, p consortium.Params) types.Configuration {
	heartbeat := heartbeat(p)
	return types.Configuration{
		SelfID:                        self,
		RequestBatchMaxCount:          uint64(p.BatchRecords),
		RequestBatchMaxBytes:          uint64(p.MaxBlockBytes),
		RequestBatchMaxInterval:       time.Duration(p.IntervalMS) * time.Millisecond,
		IncomingMessageBufferSize:     inbox,
		RequestPoolSize:               poolSize,
		RequestForwardTimeout:         forwardWait,
		RequestComplainTimeout:        complainWait,
		RequestAutoRemoveTimeout:      dropWait,
		ViewChangeResendInterval:      heartbeat / 2,
		ViewChangeTimeout:             2 * heartbeat,
		LeaderHeartbeatTimeout:        heartbeat,
		LeaderHeartbeatCount:          10,
		NumOfTicksBehindBeforeSyncing: 10,
		CollectTimeout:                collectWait,
		// We catch up before the start: during it the library takes no
		// messages, so its own sync would only wait for its timeout.
		SyncOnStart:              false,
		RequestMaxBytes:          consortium.MaxRecord,
		RequestPoolSubmitTimeout: submitWait,
	}
}

func heartbeat(p consortium.Params) time.Duration {
	return time.Duration(p.HeartbeatMS) * time.Millisecond
}

// maxFrame bounds a message: a new view carries two bodies of each validator
// of a quorum.
func maxFrame(quorum int, p consortium.Params) int {
	return 2*quorum*(int(p.MaxBlockBytes)+64<<10) + 1<<20
}
