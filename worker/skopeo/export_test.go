package skopeo

// SetRoot makes the runner search for policies below a folder.
func (r *Runner) SetRoot(folder string) { r.root = folder }
