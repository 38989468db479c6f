#!/bin/bash

NODE1="192.168.1.10:8080"
NODE2="192.168.1.11:8080"
NODE3="192.168.1.12:8080"

echo "=== ProvChain Network Verification ==="
echo ""

# Test 1: All nodes accessible
echo "Test 1: Node Accessibility"
for node in $NODE1 $NODE2 $NODE3; do
    if curl -sf http://$node/health > /dev/null; then
        echo "  ✓ $node: Healthy"
    else
        echo "  ✗ $node: Unreachable"
    fi
done
echo ""

# Test 2: Peer connectivity
echo "Test 2: Peer Connectivity"
peers=$(curl -s http://$NODE1/api/peers | jq '.peer_count')
echo "  Bootstrap node sees $peers peer(s)"
if [ "$peers" -eq 2 ]; then
    echo "  ✓ All peers connected"
else
    echo "  ✗ Expected 2 peers, found $peers"
fi
echo ""

# Test 3: Blockchain synchronization
echo "Test 3: Blockchain Synchronization"
length1=$(curl -s http://$NODE1/api/blockchain/dump | jq 'length')
length2=$(curl -s http://$NODE2/api/blockchain/dump | jq 'length')
length3=$(curl -s http://$NODE3/api/blockchain/dump | jq 'length')

echo "  Node 1: $length1 blocks"
echo "  Node 2: $length2 blocks"
echo "  Node 3: $length3 blocks"

if [ "$length1" -eq "$length2" ] && [ "$length2" -eq "$length3" ]; then
    echo "  ✓ All nodes synchronized"
else
    echo "  ✗ Blockchain sync mismatch"
fi
echo ""

echo "=== Verification Complete ==="
