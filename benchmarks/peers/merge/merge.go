// Package merge applies an UpdateUser request to a user, for both peers.
package merge

import (
	"google.golang.org/protobuf/types/known/structpb"

	pb "userservice.bench/peers/gen/userservice/v1"
	"userservice.bench/peers/serve"
)

// Update changes the fields that the request contains, and merges metadata by RFC 7396. The peers ignore update_mask.
func Update(user *pb.User, request *pb.UpdateUserRequest) {
	if request.Email != nil {
		user.Email = *request.Email
	}
	if request.FirstName != nil {
		user.FirstName = *request.FirstName
	}
	if request.LastName != nil {
		user.LastName = *request.LastName
	}
	if request.Metadata != nil {
		user.Metadata = merged(user.Metadata, request.Metadata)
	}
	user.UpdatedAt = serve.Now()
	user.Etag = serve.NewEtag()
}

func merged(target, patch *structpb.Struct) *structpb.Struct {
	if target == nil {
		target = &structpb.Struct{}
	}
	if target.Fields == nil {
		target.Fields = map[string]*structpb.Value{}
	}
	for name, value := range patch.Fields {
		switch kind := value.Kind.(type) {
		case *structpb.Value_NullValue:
			delete(target.Fields, name)
		case *structpb.Value_StructValue:
			nested := merged(target.Fields[name].GetStructValue(), kind.StructValue)
			target.Fields[name] = structpb.NewStructValue(nested)
		default:
			target.Fields[name] = value
		}
	}
	return target
}
