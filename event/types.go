package event

// all holds one of each event.
var all = []Event{
	NodeStarted{}, NodeStopping{}, ConfigReloaded{}, PeerConnected{}, PeerReady{}, PeerDisconnected{}, PeerRefused{},
	PeerPenalized{}, PeerBanned{}, PeerUnbanned{}, PeerDiscouraged{}, StaticPeerChanged{}, PeerSampled{}, BlockStored{},
	HeadChanged{}, SubtreeAnnounced{}, MiningOn{}, RecordCommitted{}, RecordRejected{}, SyncChanged{}, LedgerChecked{},
	ViewChanged{}, ValidatorsChanged{}, DHTDisagreement{}, AlarmRaised{}, AlarmCleared{}, FindingChanged{},
	MeshChanged{}, HealthChanged{}, StatsSampled{}, LogWritten{},
}

// Types lists the types that events can have, in the order of their groups.
func Types() []string {
	types := make([]string, len(all))
	for i, e := range all {
		types[i] = e.Type()
	}
	return types
}
