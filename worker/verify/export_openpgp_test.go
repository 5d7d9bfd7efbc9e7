//go:build containers_image_openpgp

package verify

// GateAddress is where the gate listens, while an image is verified.
func (v *Verifier) GateAddress() string {
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	return v.gate.served.address.String()
}
