//go:build containers_image_openpgp

package verify

// GateAddress is the address on which the gate listens while an image is verified.
func (v *Verifier) GateAddress() string {
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	return v.gate.served.address.String()
}
