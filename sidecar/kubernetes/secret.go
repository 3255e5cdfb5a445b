// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hyvve/vault-plugin-secrets-hyvve/sidecar/mask"
)

// maxData is what the API server takes in the data of a Secret.
const maxData = 1 << 20

// Secret is one that is kept as it should be. It belongs to one goroutine.
type Secret struct {
	Client      *Client
	Namespace   string
	Name        string
	Type        string // Opaque if empty
	Labels      map[string]string
	Annotations map[string]string
	Force       bool // fields that others manage are taken over

	written map[string][]byte // that it was known to hold when it was last looked at or written
	changed string            // by which that is known
}

// Type names that have a meaning of their own, and the keys that they must have.
var typeKeys = map[string][]string{
	"kubernetes.io/tls":              {"tls.crt", "tls.key"},
	"kubernetes.io/ssh-auth":         {"ssh-privatekey"},
	"kubernetes.io/dockerconfigjson": {".dockerconfigjson"},
	"kubernetes.io/dockercfg":        {".dockercfg"},
}

// Check refuses what the API server would refuse, as far as that is known without asking it. keys are those of the Secret's data,
// where they are known beforehand.
func (s *Secret) Check(keys []string) error {
	errs := []error{CheckName("name", s.Name), CheckNamespace("namespace", s.Namespace)}
	switch s.Type {
	case "kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token":
		errs = append(errs, fmt.Errorf("type = %q is for Kubernetes to fill in; use another", s.Type))
	}
	if len(s.Type) > longestName {
		errs = append(errs, fmt.Errorf("type is longer than %d bytes", longestName))
	}
	for _, k := range keys {
		errs = append(errs, checkDataKey(k))
	}
	for _, k := range typeKeys[s.Type] {
		if len(keys) > 0 && !slices.Contains(keys, k) {
			errs = append(errs, fmt.Errorf("type = %q needs %q in data; add it", s.Type, k))
		}
	}
	for k, v := range s.Labels {
		errs = append(errs, checkQualified("labels", k), checkLabelValue(k, v))
	}
	for k := range s.Annotations {
		errs = append(errs, checkQualified("annotations", k))
	}
	return errors.Join(errs...)
}

// String is how it is called in words, logs and metrics.
func (s *Secret) String() string { return s.Namespace + "/" + s.Name }

func (s *Secret) what() string {
	return fmt.Sprintf("secret %q in namespace %q", s.Name, s.Namespace)
}

// Plan is what must be done so that a Secret holds some data.
type Plan struct {
	Changes bool // what pods read of it
	secret  *Secret
	data    map[string][]byte
	changed string
	absent  bool           // there is none yet
	apply   map[string]any // nil: nothing is to be done
}

// Prepare looks at the Secret, and has the API server try what would be written. Nothing is changed.
func (s *Secret) Prepare(ctx context.Context, data map[string][]byte) (Plan, error) {
	p := Plan{secret: s, data: data}
	if err := s.fits(data); err != nil {
		return p, err
	}
	have, err := s.get(ctx)
	if err != nil {
		return p, s.masked(err, data)
	}
	if err := s.possible(have, data); err != nil {
		return p, err
	}
	p.absent = have.Metadata.UID == ""
	p.Changes = !have.holds(data)
	p.changed = have.Metadata.Annotations[changedKey]
	switch {
	case !p.Changes && p.changed != "":
	case p.absent && s.changed != "" && maps.EqualFunc(s.written, data, bytes.Equal):
		p.Changes, p.changed = false, s.changed // somebody has deleted it: pods hold the same
	default:
		p.Changes, p.changed = true, time.Now().UTC().Format(time.RFC3339Nano)
	}
	if p.absent || p.Changes || !s.dressed(have, data) {
		p.apply = s.object(have, data, p.changed)
		if err := s.patch(ctx, p, true); err != nil {
			return p, s.masked(err, data)
		}
	}
	if p.apply == nil {
		s.written, s.changed = data, p.changed
	}
	return p, nil
}

// Commit does it. It reports whether pods would read something else now; where the answer is lost, the next look finds out.
func (p Plan) Commit(ctx context.Context) (changed bool, err error) {
	s := p.secret
	if p.apply == nil {
		return false, nil
	}
	if err := s.patch(ctx, p, false); err != nil {
		return false, s.masked(err, p.data)
	}
	s.written, s.changed = p.data, p.changed
	return p.Changes, nil
}

// Drifted reports whether the Secret is not what was written last, as where somebody has deleted or changed it.
func (s *Secret) Drifted(ctx context.Context) (bool, error) {
	if s.written == nil {
		return false, nil
	}
	have, err := s.get(ctx)
	if err != nil {
		return false, s.masked(err, s.written)
	}
	return have.Metadata.UID == "" || !have.holds(s.written) || have.Metadata.Annotations[changedKey] != s.changed || !s.dressed(have, s.written), nil
}

// ChangedAfter reports whether it holds something else than data, and was given that after a moment.
func (s *Secret) ChangedAfter(ctx context.Context, moment time.Time, data map[string][]byte) (bool, error) {
	have, err := s.get(ctx)
	if err != nil {
		return false, s.masked(err, data)
	}
	at, err := time.Parse(time.RFC3339Nano, have.Metadata.Annotations[changedKey])
	return err == nil && at.After(moment) && !have.holds(data), nil
}

// fits refuses what the API server would, without asking it.
func (s *Secret) fits(data map[string][]byte) error {
	size := 0
	for k, v := range data {
		if err := checkDataKey(k); err != nil {
			return fmt.Errorf("kubernetes: %s: %w", s.what(), err)
		}
		size += len(v)
	}
	if size > maxData {
		return fmt.Errorf("kubernetes: %s: its data would be %d bytes, and a Secret takes %d; choose with keys, or write several", s.what(), size, maxData)
	}
	return nil
}

// possible refuses what no apply can mend, now or at the next change.
func (s *Secret) possible(have object, data map[string][]byte) error {
	shared := have.shared(data)
	switch {
	case have.Metadata.UID == "":
		return nil
	case have.Immutable:
		return fmt.Errorf("kubernetes: %s is immutable, so that its values can never change; delete it for the sidecar to write it again, or name another", s.what())
	case have.Type != s.kind():
		return fmt.Errorf("kubernetes: %s has type %q, which cannot be changed, and the configuration says %q; set type to that, or delete the Secret", s.what(), have.Type, s.kind())
	case have.Metadata.Deletion != "":
		return fmt.Errorf("kubernetes: %s is being deleted, and waits for a finalizer; it is written again once it is gone", s.what())
	case len(shared) > 0 && !s.Force: // with the same value this is no conflict yet: it would be one in the midst of a rotation
		return fmt.Errorf("kubernetes: %s: %s", s.what(), owned(shared))
	}
	return nil
}

func (s *Secret) kind() string {
	if s.Type == "" {
		return "Opaque"
	}
	return s.Type
}

// dressed reports whether all else than the data is there, and nothing of the sidecar's that is no longer wanted.
func (s *Secret) dressed(have object, data map[string][]byte) bool {
	for k, v := range s.Labels {
		if have.Metadata.Labels[k] != v {
			return false
		}
	}
	for k, v := range s.Annotations {
		if have.Metadata.Annotations[k] != v {
			return false
		}
	}
	own := have.own()
	return slices.Equal(own["f:data"], slices.Sorted(maps.Keys(data))) &&
		slices.Equal(own["f:labels"], slices.Sorted(maps.Keys(s.Labels))) &&
		slices.Equal(own["f:annotations"], slices.Sorted(maps.Keys(s.annotations(""))))
}

func (s *Secret) annotations(changed string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, s.Annotations)
	all[changedKey] = changed
	return all
}

// object is what is applied. It names what it was made for, so that nobody's change in between is overwritten.
func (s *Secret) object(have object, data map[string][]byte, changed string) map[string]any {
	meta := map[string]any{"name": s.Name, "namespace": s.Namespace, "annotations": s.annotations(changed)}
	if len(s.Labels) > 0 {
		meta["labels"] = s.Labels
	}
	if have.Metadata.UID != "" {
		meta["uid"], meta["resourceVersion"] = have.Metadata.UID, have.Metadata.Version
	}
	return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": s.kind(), "data": data}
}

func (s *Secret) path() string {
	return "/api/v1/namespaces/" + s.Namespace + "/secrets/" + s.Name
}

// get returns the Secret; one that is not there has no UID.
func (s *Secret) get(ctx context.Context) (object, error) {
	var have object
	err := s.Client.do(ctx, request{
		method: http.MethodGet, path: s.path(), what: s.what(), rule: rule{"get", "", "secrets", s.Name, s.Namespace},
	}, &have)
	if notFound(err) {
		return object{}, nil
	}
	return have, err
}

// patch applies, or tries to.
func (s *Secret) patch(ctx context.Context, p Plan, try bool) error {
	query := url.Values{"fieldManager": {Manager}}
	if s.Force {
		query.Set("force", "true")
	}
	if try {
		query.Set("dryRun", "All")
	}
	r := request{
		method: http.MethodPatch, path: s.path(), query: query, contentType: "application/apply-patch+yaml", // JSON is YAML
		body: p.apply, what: s.what(), rule: rule{"patch", "", "secrets", s.Name, s.Namespace},
	}
	err := s.Client.do(ctx, r, nil)
	if refused := (*Error)(nil); errors.As(err, &refused) && refused.Code == http.StatusForbidden && p.absent {
		return fmt.Errorf("%w. It is not there, and to make it takes the verb \"create\" on secrets, which cannot be given for one name only: make it empty beforehand, with kubectl -n %s create secret generic %s, or give that verb, too",
			err, s.Namespace, s.Name)
	}
	return err
}

// masked hides data in what others have said: a webhook may quote what it refuses.
func (s *Secret) masked(err error, data map[string][]byte) error {
	refused := (*Error)(nil)
	if !errors.As(err, &refused) {
		return err
	}
	var hidden []string
	for _, v := range data {
		hidden = append(hidden, string(v))
	}
	refused.Message = mask.New(hidden...).Text(refused.Message)
	return err
}

// object is what is read of one.
type object struct {
	Metadata  metadata          `json:"metadata"`
	Type      string            `json:"type"`
	Immutable bool              `json:"immutable"`
	Data      map[string][]byte `json:"data"`
}

type metadata struct {
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Version     string            `json:"resourceVersion"`
	Generation  int64             `json:"generation"`
	Deletion    string            `json:"deletionTimestamp"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Managed     []struct {
		Manager     string          `json:"manager"`
		Operation   string          `json:"operation"`
		Subresource string          `json:"subresource"`
		Fields      json.RawMessage `json:"fieldsV1"`
	} `json:"managedFields"`
}

// holds reports whether the data is there, and nothing that the sidecar has written before and is no longer in it.
func (o object) holds(data map[string][]byte) bool {
	for k, v := range data {
		have, ok := o.Data[k]
		if !ok || !bytes.Equal(have, v) {
			return false
		}
	}
	for _, k := range o.own()["f:data"] {
		if _, ok := data[k]; !ok {
			return false
		}
	}
	return true
}

// shared returns keys of data that somebody else manages, too.
func (o object) shared(data map[string][]byte) (found []Conflict) {
	for _, m := range o.Metadata.Managed {
		if m.Manager == Manager && m.Operation == "Apply" || m.Subresource != "" {
			continue
		}
		var fields struct {
			Data map[string]any `json:"f:data"`
		}
		if json.Unmarshal(m.Fields, &fields) != nil {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			if _, ok := fields.Data["f:"+k]; ok {
				found = append(found, Conflict{Manager: m.Manager, Field: "data." + k})
			}
		}
	}
	return found
}

// own returns the keys that are the sidecar's in data, labels and annotations, sorted.
func (o object) own() map[string][]string {
	found := map[string][]string{}
	for _, m := range o.Metadata.Managed {
		if m.Manager != Manager || m.Operation != "Apply" || m.Subresource != "" {
			continue
		}
		var fields struct {
			Data     map[string]any `json:"f:data"`
			Metadata struct {
				Labels      map[string]any `json:"f:labels"`
				Annotations map[string]any `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		if json.Unmarshal(m.Fields, &fields) != nil {
			continue
		}
		for name, keys := range map[string]map[string]any{"f:data": fields.Data, "f:labels": fields.Metadata.Labels, "f:annotations": fields.Metadata.Annotations} {
			for k := range keys {
				if k != "." {
					found[name] = append(found[name], strings.TrimPrefix(k, "f:"))
				}
			}
			slices.Sort(found[name])
		}
	}
	return found
}
