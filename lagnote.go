package parley

import "fmt"

// checkCodes are the codes of checks that fail, as parley explain takes them.
var checkCodes = map[string]string{"store": "PLY-104", "peers": "PLY-504", "lag": "PLY-608", "bans": "PLY-114", "program": "PLY-115"}

// lagNote says why a node may be behind. tip is what it has, nil = no chain.
func lagNote(y Sync, foreign string, tip *StatusHead) string {
	switch {
	case y.State != "waiting":
		return fmt.Sprintf("%d blocks behind", y.LagBlocks)
	case tip != nil && tip.Height > 0:
		return fmt.Sprintf("no peer answers with its chain, so whether there is more than block %d, the last one here, is not known: see parley peers static", tip.Height)
	case foreign != "":
		return "no peer of the chain that this node waits for has answered yet"
	}
	return "no peer has answered with its chain yet: see parley peers static"
}
